// Every fault at every call of one save, through the program on one rank and on two.
// DISK_FAULT_EVERY=n: only every n-th of them, to see some of it.
#include "tests/trainer/disk_fault_support.h"

namespace wuneng::tests {
namespace {

class DiskFaultSoak : public DiskFaultRun {
 protected:
  void all_faults(int ranks) {
    begin(ranks);
    const char* every = std::getenv("DISK_FAULT_EVERY");
    const int stride = every ? std::atoi(every) : 1;
    FaultTable stopping, going_on;
    int number = 0;
    for (const DiskFault& fault : faults()) {
      if (number++ % stride != 0) continue;
      stopping.add(fault, outcome(fault, false));
      if (fault.is_error()) going_on.add(fault, outcome(fault, true));
    }
    std::printf("%d ranks, %zu calls, trainer.checkpoint.on_failure=stop\n%s", ranks, calls().size(),
                stopping.text().c_str());
    std::printf("trainer.checkpoint.on_failure=go_on\n%s", going_on.text().c_str());
  }
};

TEST_F(DiskFaultSoak, OneRank) { all_faults(1); }
TEST_F(DiskFaultSoak, TwoRanks) { all_faults(2); }

}  // namespace
}  // namespace wuneng::tests
