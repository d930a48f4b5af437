// WKV-7 on whichever device is present: build/wuneng_bench --benchmark_filter=Wkv7.
//
// On the CPU (float32, one thread unless WUNENG_BENCH_THREADS says otherwise): the bars at B 4, T 512, H 6, N
// 64 against the same algorithm in batched LibTorch operations (wkv7_peer.h; the fastest of its chunks,
// measured in the same run), and the GPU's matrix with the batch and the heads cut down to one or two, which
// leaves the time of a token-head as it is. On CUDA: the whole matrix in bfloat16 and float32.
#include <ATen/Context.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/unique_dim.h>
#include <dlfcn.h>

#include "kernels/wkv7/wkv7.h"
#include "tests/bench/report.h"
#include "tests/bench/wkv7_peer.h"

namespace wuneng::bench {
namespace {

struct Shape {
  std::int64_t B, T, H, N;
  std::int64_t documents = 0;  // of random lengths

  double token_heads() const { return static_cast<double>(B * T * H); }
};

// r, log_decay, k, v, a, b as RWKV-7 makes them.
std::vector<at::Tensor> inputs(const Shape& s, const at::TensorOptions& options, bool differentiable) {
  std::vector<at::Tensor> in;
  for (int i = 0; i < 6; ++i) in.push_back(at::randn({s.B, s.T, s.H, s.N}));
  in[1] = in[1].sigmoid().mul(-0.6);
  in[2] = in[2].mul(0.3);
  in[4] = in[4].div(in[4].norm(2, -1, true)).neg();
  in[5] = in[4].mul(-0.5);
  for (at::Tensor& x : in) x = x.to(options).set_requires_grad(differentiable);
  return in;
}

using Op = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// One forward pass, and with `cotangent` one backward pass, to the end.
void step(const Op& op, const std::vector<at::Tensor>& in, const at::Tensor& cotangent) {
  for (const at::Tensor& x : in) x.mutable_grad().reset();  // else the gradients are added up
  const at::Tensor y = op(in);
  if (cotangent.defined()) y.backward(cotangent);
  const at::Tensor& last = cotangent.defined() ? in[0].grad() : y;
  if (last.is_cuda()) last.view(-1)[0].item();  // waits for the device
}

Op ours(const Shape& s) {
  at::Tensor starts;
  if (s.documents)
    starts = std::get<0>(at::unique_dim(at::randint(0, s.B * s.T, {s.documents}, at::kLong), 0));
  return [starts](const std::vector<at::Tensor>& in) {
    return kernels::wkv7(in[0], in[1], in[2], in[3], in[4], in[5], {}, starts).y;
  };
}

// Seconds of one pass, the fastest of some.
double seconds(const Op& op, const Shape& s, bool backward) {
  const std::vector<at::Tensor> in = inputs(s, at::kFloat, backward);
  const at::Tensor cotangent = backward ? at::randn({s.B, s.T, s.H, s.N}) : at::Tensor();
  return fastest(5, [&] { step(op, in, cotangent); });
}

// Of the peer with its best chunk.
double peer_seconds(const Shape& s, bool backward) {
  double best = std::numeric_limits<double>::infinity();
  for (const std::int64_t chunk : {16, 32, 64}) {
    const Op peer = [chunk](const std::vector<at::Tensor>& x) {
      return wkv7_peer(x[0], x[1], x[2], x[3], x[4], x[5], chunk);
    };
    best = std::min(best, seconds(peer, s, backward));
  }
  return best;
}

// Bytes per second of a large copy on the device, what it reads and what it writes.
double copy_bandwidth(const at::TensorOptions& options) {
  static const double bandwidth = [&] {
    const at::Tensor from = at::ones({64 << 20}, options.dtype(at::kFloat)), to = at::empty_like(from);
    const double bytes = 2.0 * static_cast<double>(from.nbytes());
    return bytes / fastest(10, [&] {
             to.copy_(from);
             if (to.is_cuda()) to[0].item();  // waits for the device
           });
  }();
  return bandwidth;
}

// The recurrence's multiplications and additions, and the bytes that must move: the inputs, y and, backward,
// all of these again, the inputs once more and their gradients. The floor is the time that a copy of those
// bytes takes on the same device.
void report(benchmark::State& state, const Shape& s, const at::TensorOptions& options, bool backward) {
  const double bytes = s.token_heads() * static_cast<double>(s.N) *
                       static_cast<double>(options.dtype().itemsize()) * (backward ? 20 : 7);
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  const double N = static_cast<double>(s.N);
  state.counters["us/token-head"] = benchmark::Counter(
      s.token_heads() / 1e6, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  state.counters["GFLOP/s"] = benchmark::Counter(s.token_heads() * 9e-9 * N * N * (backward ? 3 : 1), rate);
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, rate);
  state.counters["of_floor"] = benchmark::Counter(bytes / copy_bandwidth(options), rate);
  state.SetLabel(backward ? "forward and backward" : "forward");
}

using Run = void (*)(benchmark::State&, const Shape&, const at::TensorOptions&, bool backward);

void alone(benchmark::State& state, const Shape& s, const at::TensorOptions& options, bool backward) {
  const std::vector<at::Tensor> in = inputs(s, options, backward);
  const at::Tensor cotangent = backward ? at::randn({s.B, s.T, s.H, s.N}).to(options) : at::Tensor();
  const Op op = ours(s);
  for (auto _ : state) step(op, in, cotangent);
  report(state, s, options, backward);
}

// The bars: at least 10 times as fast as the peer forward, 8 times forward and backward.
void against_peer(benchmark::State& state, const Shape& s, const at::TensorOptions& options, bool backward) {
  const double peer = peer_seconds(s, backward);
  alone(state, s, options, backward);
  state.counters["peer us/token-head"] = peer * 1e6 / s.token_heads();
  state.counters["x of peer"] = peer / seconds(ours(s), s, backward);
}

void register_all(const std::string& name, const Shape& s, at::TensorOptions options, Run run) {
  for (const bool backward : {false, true})
    benchmark::RegisterBenchmark(("Wkv7/" + name + (backward ? "/backward" : "/forward")).c_str(), run, s,
                                 options, backward)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

void register_on_cpu() {
  register_all("bar", {4, 512, 6, 64}, at::kFloat, against_peer);
  register_all("bar, N 128", {2, 512, 4, 128}, at::kFloat, against_peer);
  register_all("X", {1, 4096, 2, 64}, at::kFloat, alone);
  register_all("2X", {1, 4096, 4, 64}, at::kFloat, alone);
  register_all("long", {1, 32768, 1, 64}, at::kFloat, alone);
  register_all("small grid", {1, 8192, 1, 64}, at::kFloat, alone);
  register_all("X, N 128", {1, 4096, 1, 128}, at::kFloat, alone);
  register_all("documents", {1, 4096, 2, 64, 8}, at::kFloat, alone);
}

void register_on_cuda() {
  for (const auto dtype : {at::kBFloat16, at::kFloat}) {
    const at::TensorOptions options = at::TensorOptions(at::kCUDA).dtype(dtype);
    const std::string suffix = dtype == at::kFloat ? ", fp32" : ", bf16";
    register_all("X" + suffix, {8, 4096, 32, 64}, options, alone);
    register_all("2X" + suffix, {8, 4096, 64, 64}, options, alone);
    register_all("long" + suffix, {1, 32768, 32, 64}, options, alone);
    register_all("small grid" + suffix, {1, 8192, 16, 64}, options, alone);
    register_all("X, N 128" + suffix, {8, 4096, 16, 128}, options, alone);
    register_all("2X, N 128" + suffix, {8, 4096, 32, 128}, options, alone);
    register_all("documents" + suffix, {8, 4096, 32, 64, 64}, options, alone);
  }
}

const bool registered = [] {
  dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);  // not linked: it needs all of CUDA's libraries
  if (at::hasCUDA())
    register_on_cuda();
  else
    register_on_cpu();
  return true;
}();

}  // namespace
}  // namespace wuneng::bench
