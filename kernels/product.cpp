#include "kernels/product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#ifdef WUNENG_ONEDNN
#include <dlfcn.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>  // perhaps LibTorch's own, of another version: what is used here is alike in all
#endif

#include <optional>

#include "kernels/op.h"

namespace wuneng::kernels {
namespace {

enum class Into { fresh, sum };

void check_shapes(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  WN_CHECK(a.dim() == 2 && b.dim() == 2 && out.dim() == 2 && a.size(1) == b.size(0) &&
               out.size(0) == a.size(0) && out.size(1) == b.size(1),
           "product: {} times {} is not {}", shape_text(a), shape_text(b), shape_text(out));
}

void by_libtorch(at::Tensor out, const at::Tensor& a, const at::Tensor& b, Into into) {
  const bool wider = out.scalar_type() != a.scalar_type();  // which LibTorch has on CUDA alone
  if (into == Into::fresh)
    wider ? at::mm_out(out, a, b, out.scalar_type()) : at::mm_out(out, a, b);
  else
    wider ? at::addmm_out(out, out, a, b, out.scalar_type()) : out.addmm_(a, b);
}

#ifdef WUNENG_ONEDNN  // the file name of its library
// What is used of oneDNN. Loaded and not linked: LibTorch carries another version, made with another C++
// library, and neither may find the templates that the other exports.
struct OneDnn {
  decltype(&dnnl_sgemm) sgemm;
  decltype(&dnnl_version) version;
  decltype(&omp_get_max_threads) threads;  // of the OpenMP that oneDNN has, perhaps not LibTorch's
  decltype(&omp_set_num_threads) set_threads;
};

OneDnn load_onednn() {
  void* library = ::dlopen(WUNENG_ONEDNN, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  WN_CHECK(library, "{}: install oneDNN (Debian: libdnnl-dev)", ::dlerror());
  const auto find = [&]<class Function>(const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    WN_CHECK(function, "{}: has no {}: install a oneDNN with OpenMP (Debian: libdnnl-dev)", WUNENG_ONEDNN,
             name);
  };
  OneDnn found{};
  find("dnnl_sgemm", found.sgemm);
  find("dnnl_version", found.version);
  find("omp_get_max_threads", found.threads);
  find("omp_set_num_threads", found.set_threads);
  return found;
}

const OneDnn& onednn() {
  static const OneDnn loaded = load_onednn();
  return loaded;
}

// Of `out`, what one call computes, on one thread. Fixed, so that the number of threads decides who makes a
// call and never how a sum is cut.
constexpr std::int64_t tile = 512;

// A matrix as BLAS knows it: rows that lie side by side or, transposed, columns.
struct Matrix {
  float* data;
  std::int64_t stride;
  bool transposed;

  float* at(std::int64_t row, std::int64_t column) const {
    return data + (transposed ? column * stride + row : row * stride + column);
  }
  char letter() const { return transposed ? 'T' : 'N'; }
};

// Nothing where neither rows nor columns lie side by side.
std::optional<Matrix> matrix(const at::Tensor& x) {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat || x.numel() == 0) return {};
  const std::int64_t rows = x.size(0), columns = x.size(1);
  const std::int64_t from_row = rows == 1 ? columns : x.stride(0),
                     from_column = columns == 1 ? rows : x.stride(1);
  auto* data = static_cast<float*>(x.data_ptr());
  if ((columns == 1 || from_column == 1) && from_row >= columns) return Matrix{data, from_row, false};
  if ((rows == 1 || from_row == 1) && from_column >= rows) return Matrix{data, from_column, true};
  return {};
}

// oneDNN's share of threads is one: those of at::parallel_for are all there are.
class OneThread {
 public:
  OneThread() { onednn().set_threads(1); }
  ~OneThread() { onednn().set_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_ = onednn().threads();
};

// Whether the matrices were such as oneDNN can multiply.
bool by_onednn(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, Into into) {
  const auto to = matrix(out), left = matrix(a), right = matrix(b);
  if (!to || !left || !right) return false;
  if (to->transposed) return by_onednn(out.t(), b.t(), a.t(), into);
  const std::int64_t M = out.size(0), N = out.size(1), K = a.size(1), down = (M + tile - 1) / tile,
                     across = (N + tile - 1) / tile;
  at::parallel_for(0, down * across, 1, [&](std::int64_t begin, std::int64_t end) {
    const OneThread guard;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i % down * tile, column = i / down * tile;
      const auto status =
          onednn().sgemm(left->letter(), right->letter(), std::min(tile, M - row), std::min(tile, N - column),
                         K, 1, left->at(row, 0), left->stride, right->at(0, column), right->stride,
                         into == Into::sum ? 1 : 0, to->at(row, column), to->stride);
      WN_CHECK(status == dnnl_success, "product: {} times {}: oneDNN's status {}", shape_text(a),
               shape_text(b), static_cast<int>(status));
    }
  });
  return true;
}
#else
bool by_onednn(const at::Tensor&, const at::Tensor&, const at::Tensor&, Into) { return false; }
#endif

void multiply(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, Into into) {
  check_shapes(out, a, b);
  if (!by_onednn(out, a, b, into)) by_libtorch(out, a, b, into);
}

}  // namespace

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  product_out(out, a, b);
  return out;
}

void product_out(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  multiply(out, a, b, Into::fresh);
}

void add_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  multiply(out, a, b, Into::sum);
}

std::string product_library() {
#ifdef WUNENG_ONEDNN
  const dnnl_version_t& version = *onednn().version();
  return fmt::format("oneDNN {}.{}.{}", version.major, version.minor, version.patch);
#else
  return "LibTorch's";
#endif
}

}  // namespace wuneng::kernels
