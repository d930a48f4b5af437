#include "kernels/state_head.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/cuda_launch.h"
#include "kernels/op.h"
#include "kernels/state_head_launch.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

StateHeadSizes sizes_of(const at::Tensor& x) { return {x.size(0) * x.size(1), x.size(2), x.size(3)}; }

at::Tensor like(const at::Tensor& x) { return at::empty(x.sizes(), x.options()); }

// The gradients of `count` parameters [H, N], summed over row blocks: work(first token, last token, sums).
template <class T, class Work>
at::Tensor sum_over_blocks(const at::Tensor& x, std::int64_t count, const Work& work) {
  const StateHeadSizes s = sizes_of(x);
  const at::Tensor partial = at::zeros({row_blocks(s.tokens), count, s.H, s.N}, x.options());
  for_row_blocks(s.tokens, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    work(first, last, partial.mutable_data_ptr<T>() + block * count * s.H * s.N);
  });
  return sum_blocks<T>(partial);
}

// ------------------------------------------------------------------- preparation ----

struct Prepare : torch::autograd::Function<Prepare> {
  static constexpr const char* op = "prepare_state_head";

  template <class T>
  static Preparation<T> arguments(const variable_list& in) {
    return {input<T>(in[0]), input<T>(in[1]), input<T>(in[2]), input<T>(in[3]), input<T>(in[4]),
            nullptr,         nullptr,         nullptr,         nullptr};
  }

  template <class T>
  static Preparation<T> arguments(const variable_list& in, const variable_list& out) {
    Preparation<T> p = arguments<T>(in);
    p.log_decay = output<T>(out[0]);
    p.new_k = output<T>(out[1]);
    p.a = output<T>(out[2]);
    p.b = output<T>(out[3]);
    return p;
  }

  template <class T>
  static PreparationGradient<T> gradients(const variable_list& d, const variable_list& out) {
    return {input<T>(d[0]),    input<T>(d[1]),    input<T>(d[2]),   input<T>(d[3]),
            output<T>(out[0]), output<T>(out[1]), output<T>(out[2])};
  }

  static variable_list forward(AutogradContext* context, const at::Tensor& decay_logit,
                               const at::Tensor& rate_logit, const at::Tensor& k, const at::Tensor& removal,
                               const at::Tensor& replacement) {
    const StateHeadSizes s = sizes_of(k);
    const variable_list in{decay_logit, rate_logit, k, removal, replacement};
    const variable_list out{like(k), like(k), like(k), like(k)};
    if (k.is_cuda())
      cuda_launch(op, k, [&]<class Element>(void* stream) {
        return prepare_cuda(arguments<Element>(in, out), s, stream);
      });
    else
      AT_DISPATCH_FLOATING_TYPES(k.scalar_type(), op, [&] {
        const Preparation<scalar_t> p = arguments<scalar_t>(in, out);
        for_row_blocks(s.tokens, [&](std::int64_t, std::int64_t first, std::int64_t last) {
          prepare_rows(p, s, first, last);
        });
      });
    context->save_for_backward(in);
    context->set_materialize_grads(false);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients_in) {
    const variable_list in = context->get_saved_variables();
    const at::Tensor& k = in[2];
    variable_list d, out{like(k), like(k), like(k)};
    for (const at::Tensor& gradient : gradients_in)
      d.push_back(gradient.defined() ? dense(gradient)
                  : k.is_cuda()      ? gradient
                                     : at::zeros(k.sizes(), k.options()));
    at::Tensor sums;
    if (k.is_cuda())
      sums = sums_on_cuda(in, d, out);
    else
      AT_DISPATCH_FLOATING_TYPES(k.scalar_type(), op, [&] {
        sums = sum_over_blocks<scalar_t>(
            k, preparation_sums, [&](std::int64_t first, std::int64_t last, scalar_t* sum) {
              prepare_rows_backward(arguments<scalar_t>(in), gradients<scalar_t>(d, out), sizes_of(k), first,
                                    last, sum);
            });
      });
    return {out[0], out[1], out[2], sums[0], sums[1]};
  }

  static at::Tensor sums_on_cuda(const variable_list& in, const variable_list& d, const variable_list& out) {
    const at::Tensor& k = in[2];
    const StateHeadSizes s = sizes_of(k);
    const at::Tensor partial = empty_partial(state_head_slices(s.tokens), {preparation_sums, s.H, s.N}, k);
    cuda_launch(op, k, [&]<class Element>(void* stream) {
      return prepare_backward_cuda(arguments<Element>(in), gradients<Element>(d, out), s,
                                   output<float>(partial), stream);
    });
    return sum_slices(op, partial, k);
  }
};

// ---------------------------------------------------------------------- epilogue ----

struct Finish : torch::autograd::Function<Finish> {
  static constexpr const char* op = "finish_state_head";

  template <class T>
  static Epilogue<T> arguments(const variable_list& in, double eps) {
    return {input<T>(in[0]), input<T>(in[1]), input<T>(in[2]),
            input<T>(in[3]), input<T>(in[4]), input<T>(in[5]),
            input<T>(in[6]), input<T>(in[7]), eps};
  }

  template <class T>
  static EpilogueGradient<T> gradients(const at::Tensor& d, const variable_list& out) {
    return {input<T>(d),       output<T>(out[0]), output<T>(out[1]),
            output<T>(out[2]), output<T>(out[3]), output<T>(out[4])};
  }

  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& r,
                            const at::Tensor& k, const at::Tensor& v, const at::Tensor& gate,
                            const at::Tensor& bonus, const at::Tensor& weight, const at::Tensor& bias,
                            double eps) {
    const StateHeadSizes s = sizes_of(y);
    const variable_list in{y, r, k, v, gate, bonus, weight, bias};
    const at::Tensor out = like(y);
    if (y.is_cuda())
      cuda_launch(op, y, [&]<class Element>(void* stream) {
        return finish_cuda(arguments<Element>(in, eps), s, output<Element>(out), stream);
      });
    else
      AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), op, [&] {
        for_row_blocks(s.tokens, [&](std::int64_t, std::int64_t first, std::int64_t last) {
          finish_rows(arguments<scalar_t>(in, eps), s, first, last, output<scalar_t>(out));
        });
      });
    context->save_for_backward(in);
    context->saved_data["eps"] = eps;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients_in) {
    const variable_list in = context->get_saved_variables();
    const at::Tensor &y = in[0], d = dense(gradients_in[0]);
    const double eps = context->saved_data["eps"].toDouble();
    const variable_list out{like(y), like(y), like(y), like(y), like(y)};
    at::Tensor sums;
    if (y.is_cuda())
      sums = sums_on_cuda(in, eps, d, out);
    else
      AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), op, [&] {
        sums = sum_over_blocks<scalar_t>(
            y, epilogue_sums, [&](std::int64_t first, std::int64_t last, scalar_t* sum) {
              finish_rows_backward(arguments<scalar_t>(in, eps), gradients<scalar_t>(d, out), sizes_of(y),
                                   first, last, sum);
            });
      });
    return {out[0], out[1], out[2], out[3], out[4], sums[0], sums[1], sums[2], at::Tensor()};
  }

  static at::Tensor sums_on_cuda(const variable_list& in, double eps, const at::Tensor& d,
                                 const variable_list& out) {
    const StateHeadSizes s = sizes_of(in[0]);
    const at::Tensor partial = empty_partial(state_head_slices(s.tokens), {epilogue_sums, s.H, s.N}, in[0]);
    cuda_launch(op, in[0], [&]<class Element>(void* stream) {
      return finish_backward_cuda(arguments<Element>(in, eps), gradients<Element>(d, out), s,
                                  output<float>(partial), stream);
    });
    return sum_slices(op, partial, in[0]);
  }
};

// --------------------------------------------------------------------- value mix ----

constexpr std::int64_t grain = 16384;  // elements per piece of parallel work

struct MixValues : torch::autograd::Function<MixValues> {
  static constexpr const char* op = "mix_values";

  template <class T>
  static ValueMix<T> arguments(const variable_list& in) {
    return {input<T>(in[0]), input<T>(in[1]), input<T>(in[2])};
  }

  template <class T>
  static ValueMixGradient<T> gradients(const at::Tensor& d, const variable_list& out) {
    return {input<T>(d), output<T>(out[0]), output<T>(out[1]), output<T>(out[2])};
  }

  static at::Tensor forward(AutogradContext* context, const at::Tensor& v, const at::Tensor& first,
                            const at::Tensor& logit) {
    const variable_list in{v, first, logit};
    const at::Tensor out = like(v);
    if (v.is_cuda())
      cuda_launch(op, v, [&]<class Element>(void* stream) {
        return mix_values_cuda(arguments<Element>(in), v.numel(), output<Element>(out), stream);
      });
    else
      AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), op, [&] {
        at::parallel_for(0, v.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
          mix_elements(arguments<scalar_t>(in), begin, end, output<scalar_t>(out));
        });
      });
    context->save_for_backward(in);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients_in) {
    const variable_list in = context->get_saved_variables();
    const at::Tensor d = dense(gradients_in[0]);
    const variable_list out{like(d), like(d), like(d)};
    if (d.is_cuda())
      cuda_launch(op, d, [&]<class Element>(void* stream) {
        return mix_values_backward_cuda(arguments<Element>(in), gradients<Element>(d, out), d.numel(),
                                        stream);
      });
    else
      AT_DISPATCH_FLOATING_TYPES(d.scalar_type(), op, [&] {
        at::parallel_for(0, d.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
          mix_elements_backward(arguments<scalar_t>(in), gradients<scalar_t>(d, out), begin, end);
        });
      });
    return out;
  }
};

// The CUDA kernels work on heads of 64 and 128 channels, one head per row of the grid.
void check_heads(const char* op, const char* name, const at::Tensor& x) {
  if (!x.is_cuda()) return;
  WN_CHECK(x.size(3) == 64 || x.size(3) == 128, "{}: {} has shape {}, head size N must be 64 or 128 on CUDA",
           op, name, shape_text(x));
  WN_CHECK(x.size(2) <= 65535, "{}: {} has shape {}, at most 65535 heads on CUDA", op, name, shape_text(x));
}

}  // namespace

StateHeadInputs prepare_state_head(const at::Tensor& decay_logit, const at::Tensor& rate_logit,
                                   const at::Tensor& k, const at::Tensor& removal,
                                   const at::Tensor& replacement) {
  constexpr const char* op = Prepare::op;
  WN_CHECK(k.dim() == 4, "{}: k has shape {}, expected [B, T, H, N]", op, shape_text(k));
  check_input(op, "k", k, k.sizes(), k);
  check_heads(op, "k", k);
  check_input(op, "decay_logit", decay_logit, k.sizes(), k);
  check_input(op, "rate_logit", rate_logit, k.sizes(), k);
  check_input(op, "removal", removal, {k.size(2), k.size(3)}, k);
  check_input(op, "replacement", replacement, {k.size(2), k.size(3)}, k);
  const variable_list out = Prepare::apply(decay_logit, rate_logit, k, removal, replacement);
  return {out[0], out[1], out[2], out[3]};
}

at::Tensor finish_state_head(const at::Tensor& y, const at::Tensor& r, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& gate, const at::Tensor& bonus,
                             const at::Tensor& weight, const at::Tensor& bias, double eps) {
  constexpr const char* op = Finish::op;
  WN_CHECK(y.dim() == 4, "{}: y has shape {}, expected [B, T, H, N]", op, shape_text(y));
  check_input(op, "y", y, y.sizes(), y);
  check_heads(op, "y", y);
  check_input(op, "r", r, y.sizes(), y);
  check_input(op, "k", k, y.sizes(), y);
  check_input(op, "v", v, y.sizes(), y);
  check_input(op, "gate", gate, y.sizes(), y);
  check_input(op, "bonus", bonus, {y.size(2), y.size(3)}, y);
  check_input(op, "weight", weight, {y.size(2), y.size(3)}, y);
  check_input(op, "bias", bias, {y.size(2), y.size(3)}, y);
  return Finish::apply(y, r, k, v, gate, bonus, weight, bias, eps);
}

at::Tensor mix_values(const at::Tensor& v, const at::Tensor& first, const at::Tensor& logit) {
  constexpr const char* op = MixValues::op;
  check_input(op, "v", v, v.sizes(), v);
  check_input(op, "first", first, v.sizes(), v);
  check_input(op, "logit", logit, v.sizes(), v);
  WN_CHECK(v.is_cpu() || v.numel() % 8 == 0, "{}: v has shape {}, a multiple of 8 elements is needed on CUDA",
           op, shape_text(v));
  return MixValues::apply(v, first, logit);
}

}  // namespace wuneng::kernels
