#include "parallel/world.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>

#include "common/check.h"
#ifdef WUNENG_WITH_MPI
#include "parallel/mpi.h"
#include "parallel/self_test.h"
#endif

namespace wuneng::parallel {
namespace {

// Number of processes that the launcher started, as it says itself; 0 when there was no launcher.
int launched_processes() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* value = std::getenv(name)) return std::max(1, std::atoi(value));
  return std::getenv("PMIX_RANK") ? 1 : 0;
}

std::string host_name() {
  char name[256] = "unknown";
  ::gethostname(name, sizeof name - 1);
  return name;
}

#ifdef WUNENG_WITH_MPI
int start_limit() {
  const char* value = std::getenv("WUNENG_START_LIMIT");
  return value ? std::max(1, std::atoi(value)) : 120;
}

// This process before MPI has told its rank.
std::string who(const std::string& host) {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* value = std::getenv(name)) return fmt::format("rank {} on {}", value, host);
  return fmt::format("a rank on {}", host);
}
#endif

}  // namespace

World::World()
    : calls_(std::make_unique<Calls>()),
      communicator_(make_recorded(make_single(), *calls_)),
      host_(host_name()) {
  const int launched = launched_processes();
  if (launched == 0) return;
#ifdef WUNENG_WITH_MPI
  const StartLimit limit(start_limit(), who(host_));
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  mpi_ = true;
  communicator_ = make_recorded(make_mpi(MPI_COMM_WORLD), *calls_);
  WN_REQUIRE(provided == MPI_THREAD_MULTIPLE,
             "MPI grants thread level {} instead of MPI_THREAD_MULTIPLE ({}); use another build of MPI",
             provided, static_cast<int>(MPI_THREAD_MULTIPLE));
  WN_REQUIRE(launched <= size(),
             "the launcher on {} started {} processes, but MPI sees {}: launcher and MPI library do not "
             "belong together; with Slurm "
             "use srun --mpi=pmix, else the mpirun of the MPI that this program was built with",
             host_, launched, size());
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  library_ = std::string(text, static_cast<std::size_t>(length));
  library_ = library_.substr(0, library_.find(','));
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &on_this_host_.rank);
  MPI_Comm_size(node, &on_this_host_.size);
  MPI_Comm_free(&node);
  self_test(*communicator_, host_);
#else
  WN_REQUIRE(
      launched == 1,
      "started as one of {} processes, but this program was built without MPI: build it with -DWUNENG_MPI=ON",
      launched);
#endif
}

World::~World() {
#ifdef WUNENG_WITH_MPI
  if (!mpi_) return;
  communicator_ = make_single();
  MPI_Finalize();
#endif
}

std::string World::name() const { return fmt::format("rank {} of {} on {}", rank(), size(), host_); }

void World::abort(int exit_code) {
#ifdef WUNENG_WITH_MPI
  ::alarm(10);  // should the launcher be out of reach
  if (mpi_) MPI_Abort(MPI_COMM_WORLD, exit_code);
#endif
  std::_Exit(exit_code);
}

}  // namespace wuneng::parallel
