// What a convolutional network's layers do on a CPU, from C++: the operators of kernels.py in the same order, so the
// same bits, without Python's part of a step. Built by compiling.py; float32 alone.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/utils/pybind.h>

#include <cmath>
#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_AVX2
#include <immintrin.h>
#endif

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
namespace py = pybind11;
using MaybeTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

namespace {

// --- one bit per output: where an activation lets the gradient through, 0 < out < ceiling, here 0 < out <= highest ----

#ifdef HAS_AVX2
const bool kAvx2 = __builtin_cpu_supports("avx2");

__attribute__((target("avx2"))) void pack_bytes_avx2(const float* values, int64_t count, float highest, uint8_t* bits) {
  const __m256 zero = _mm256_setzero_ps(), top = _mm256_set1_ps(highest);
  for (int64_t i = 0; i < count; ++i) {
    const __m256 x = _mm256_loadu_ps(values + 8 * i);
    const __m256 open = _mm256_and_ps(_mm256_cmp_ps(x, zero, _CMP_GT_OQ), _mm256_cmp_ps(x, top, _CMP_LE_OQ));
    bits[i] = static_cast<uint8_t>(_mm256_movemask_ps(open));
  }
}

// An "and" with a number's own bits leaves the number or 0, also of infinities, which a product would not.
__attribute__((target("avx2"))) void pass_bytes_avx2(const float* grad, const uint8_t* bits, int64_t count, float* out) {
  const __m256i place = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int64_t i = 0; i < count; ++i) {
    const __m256i open = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits[i]), place), place);
    _mm256_storeu_ps(out + 8 * i, _mm256_and_ps(_mm256_loadu_ps(grad + 8 * i), _mm256_castsi256_ps(open)));
  }
}
#else
constexpr bool kAvx2 = false;
void pack_bytes_avx2(const float*, int64_t, float, uint8_t*) {}
void pass_bytes_avx2(const float*, const uint8_t*, int64_t, float*) {}
#endif

// The bytes of bits, of so many numbers, that the functions above do; the rest is done one by one.
int64_t done_by_eights(int64_t count) { return kAvx2 ? count / 8 : 0; }

void pack_some(const float* values, int64_t count, float highest, uint8_t* bits) {
  const int64_t whole = done_by_eights(count);
  if (whole) pack_bytes_avx2(values, whole, highest, bits);
  for (int64_t i = 8 * whole; i < count; ++i) {
    if (i % 8 == 0) bits[i / 8] = 0;
    bits[i / 8] |= static_cast<uint8_t>((values[i] > 0 && values[i] <= highest) << (i % 8));
  }
}

void pass_some(const float* grad, const uint8_t* bits, int64_t count, float* out) {
  const int64_t whole = done_by_eights(count);
  if (whole) pass_bytes_avx2(grad, bits, whole, out);
  for (int64_t i = 8 * whole; i < count; ++i) out[i] = (bits[i / 8] >> (i % 8)) & 1 ? grad[i] : 0.0f;
}

constexpr int64_t kGrain = 1 << 17;  // numbers a thread takes at least; a multiple of 8

template <typename F>
void in_pieces(int64_t count, const F& work) {
  at::parallel_for(0, (count + kGrain - 1) / kGrain, 1, [&](int64_t begin, int64_t end) {
    work(begin * kGrain, std::min(count, end * kGrain) - begin * kGrain);
  });
}

Tensor pack(const Tensor& out, double ceiling) {
  Tensor bits = at::empty({(out.numel() + 7) / 8}, out.options().dtype(at::kByte));
  const float* values = out.const_data_ptr<float>();
  uint8_t* to = bits.mutable_data_ptr<uint8_t>();
  // a ReLU lets an infinite output through
  const float highest = std::isinf(ceiling) ? INFINITY : std::nextafter(static_cast<float>(ceiling), 0.0f);
  in_pieces(out.numel(), [&](int64_t from, int64_t count) {
    pack_some(values + from, count, highest, to + from / 8);
  });
  return bits;
}

Tensor pass_through(Tensor grad, const Tensor& bits, const Sizes& strides) {
  if (grad.strides() != at::IntArrayRef(strides)) {
    grad = at::empty_strided(grad.sizes(), strides, grad.options()).copy_(grad);
  }
  Tensor out = at::empty_strided(grad.sizes(), strides, grad.options());
  const float* from = grad.const_data_ptr<float>();
  const uint8_t* open = bits.const_data_ptr<uint8_t>();
  float* to = out.mutable_data_ptr<float>();
  in_pieces(grad.numel(), [&](int64_t begin, int64_t count) {
    pass_some(from + begin, open + begin / 8, count, to + begin);
  });
  return out;
}

Tensor dense(const Tensor& out) { return out.is_non_overlapping_and_dense() ? out : out.contiguous(); }

Tensor rectified(const Tensor& x, double ceiling) {
  return std::isinf(ceiling) ? at::clamp_min(x, 0) : at::clamp(x, 0, ceiling);
}

Tensor& rectify_(Tensor& x, double ceiling) { return std::isinf(ceiling) ? x.clamp_min_(0) : x.clamp_(0, ceiling); }

// As `once_differentiable` does it.
variable_list once(const variable_list& gradients) {
  if (!at::GradMode::is_enabled()) return gradients;
  variable_list found;
  for (const Tensor& gradient : gradients) {
    if (gradient.defined()) found.push_back(gradient);
  }
  auto error = std::make_shared<torch::autograd::DelayedError>(
      "trying to differentiate twice a function that was marked with @once_differentiable",
      static_cast<int64_t>(found.size()));
  for (Tensor& gradient : found) {
    gradient = gradient.detach();
    gradient.requires_grad_(true);
  }
  const variable_list told = (*error)(std::move(found));
  variable_list all;
  size_t next = 0;
  for (const Tensor& gradient : gradients) all.push_back(gradient.defined() ? told[next++] : gradient);
  return all;
}

// --- a layer --------------------------------------------------------------------------------------------------------

// What its products need besides tensors. `changes` counts what makes a backward pass under way wrong.
struct Layer : torch::CustomClassHolder {
  std::string name;
  Sizes stride, padding, dilation, still;
  int64_t groups, outputs;
  bool onednn;  // whether oneDNN's convolution takes an activation along
  int64_t small;  // inputs up to which it is called without
  int64_t changes = 0;

  Layer(std::string name, Sizes stride, Sizes padding, Sizes dilation, int64_t groups, int64_t outputs, bool onednn,
        int64_t small)
      : name(std::move(name)), stride(std::move(stride)), padding(std::move(padding)), dilation(std::move(dilation)),
        still(this->stride.size(), 0), groups(groups), outputs(outputs), onednn(onednn), small(small) {}

  Tensor convolution(const Tensor& x, const Tensor& weight, const MaybeTensor& bias) const {
    return at::conv2d(x, weight, bias, stride, padding, dilation, groups);
  }

  std::tuple<Tensor, Tensor, Tensor> gradients(const Tensor& grad, const Tensor& x, const Tensor& weight, int64_t groups,
                                               std::array<bool, 3> which) const {
    return at::convolution_backward(grad, x, weight, std::nullopt, stride, padding, dilation, false, still, groups, which);
  }
};
using LayerPointer = c10::intrusive_ptr<Layer>;

using Pointwise = Tensor(const Tensor&, const Tensor&, const MaybeTensor&, at::IntArrayRef, at::IntArrayRef,
                         at::IntArrayRef, int64_t, std::string_view, c10::List<std::optional<at::Scalar>>,
                         std::optional<std::string_view>);

Tensor pointwise(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const Layer& layer, double ceiling) {
  static const auto fused =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_convolution_pointwise", "").typed<Pointwise>();
  c10::List<std::optional<at::Scalar>> bounds;
  if (!std::isinf(ceiling)) {
    bounds.push_back(at::Scalar(0));
    bounds.push_back(at::Scalar(ceiling));
  }
  return fused.call(x, weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups,
                    std::isinf(ceiling) ? "relu" : "hardtanh", bounds, "");
}

// The frozen batch norm behind a layer, if one is folded into it; `ceiling` of the activation behind that is infinite
// for a ReLU, negative where there is none.
struct Folded {
  MaybeTensor var, mean, weight, bias;
  double eps = 0, ceiling = -1;

  MaybeTensor scale() const {
    if (!var) return std::nullopt;
    Tensor found = var->add(eps).rsqrt_();
    return weight ? found.mul_(*weight) : found;
  }
  Tensor shift(const Tensor& scale) const {
    return bias ? at::addcmul(*bias, *mean, scale, -1) : mean->neg() * scale;
  }
};

Tensor times(const Tensor& weight, const MaybeTensor& scale) {
  return scale ? weight * scale->view({-1, 1, 1, 1}) : weight;
}

Tensor output(const Tensor& x, const Tensor& weight, MaybeTensor bias, const Folded& folded, const Layer& layer) {
  const MaybeTensor scale = folded.scale();
  const Tensor own = times(weight, scale);
  if (scale) {
    const Tensor shift = folded.shift(*scale);
    bias = bias ? at::addcmul(shift, *bias, *scale) : shift;
  }
  if (folded.ceiling < 0) return layer.convolution(x, own, bias);
  const bool is_small =
      x.numel() <= layer.small && x.size(-1) > 1 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (layer.onednn && !is_small) return pointwise(x, own, bias, layer, folded.ceiling);
  Tensor out = layer.convolution(x, own, bias);
  return rectify_(out, folded.ceiling);
}

Tensor gather(const Tensor& images, const Tensor& channels) {
  if (images.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    return images.permute({0, 2, 3, 1}).index_select(3, channels).permute({0, 3, 1, 2});
  }
  return images.index_select(1, channels);
}

// The selected channels; the input itself, not a copy, where that is all (a view would keep all of what it is a view of).
Tensor chosen_of(const Tensor& x, const Tensor& channels) {
  if (channels.size(0) != x.size(1)) return gather(x, channels);
  const bool whole = x.storage().nbytes() == static_cast<size_t>(x.numel() * x.element_size());
  return whole ? x : x.clone();
}

int64_t version(const MaybeTensor& tensor) { return tensor ? static_cast<int64_t>(tensor->_version()) : -1; }

// What the backward pass needs of tensors that are there anyway, and what they were.
struct Pass : torch::CustomClassHolder {
  LayerPointer layer;
  Folded folded;
  Tensor weight;
  MaybeTensor channels, selected;
  Sizes sizes, strides;
  std::array<int64_t, 5> state{};

  std::array<int64_t, 5> now() const {
    return {layer->changes, version(weight), version(selected), version(folded.var), version(folded.weight)};
  }
};

struct Project : torch::autograd::Function<Project> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const MaybeTensor& selected, const MaybeTensor& channels,
                        const Tensor& weight, const MaybeTensor& bias, const Folded& folded, const LayerPointer& layer) {
    auto pass = c10::make_intrusive<Pass>();
    Tensor chosen, bits;
    if (selected) chosen = chosen_of(x, *channels);
    Tensor out = output(x, weight, bias, folded, *layer);
    if (folded.ceiling >= 0) {
      out = dense(out);
      pass->strides = out.strides().vec();
      bits = pack(out, folded.ceiling);
    }
    pass->layer = layer;
    pass->folded = folded;
    pass->weight = weight;
    pass->channels = channels;
    pass->selected = selected;
    pass->sizes = x.sizes().vec();
    pass->state = pass->now();
    ctx->save_for_backward({bits, chosen});
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &bits = saved[0], &chosen = saved[1];
    const auto pass = c10::static_intrusive_pointer_cast<Pass>(ctx->saved_data["pass"].toCapsule());
    const Layer& layer = *pass->layer;
    if (pass->now() != pass->state) {
      throw std::runtime_error("layer '" + layer.name + "' was changed between forward and backward");
    }
    variable_list gradients(7);
    {
      at::NoGradGuard guard;
      Tensor grad = outputs[0];
      if (bits.defined()) grad = pass_through(grad, bits, pass->strides);
      const MaybeTensor scale = pass->folded.scale();
      if (ctx->needs_input_grad(1)) gradients[1] = compact(grad, chosen, scale, *pass);
      if (ctx->needs_input_grad(0)) {
        const auto layout = grad.is_contiguous(at::MemoryFormat::ChannelsLast) ? at::MemoryFormat::ChannelsLast
                                                                              : at::MemoryFormat::Contiguous;
        // the operator wants a tensor of the input's shape and layout, and does not read it
        const Tensor blank = at::empty(pass->sizes, grad.options(), layout);
        gradients[0] = std::get<0>(
            layer.gradients(grad, blank, times(pass->weight, scale), layer.groups, {true, false, false}));
      }
    }
    return once(gradients);
  }

  // The selected weights' gradient, paper eq. 3: (C', k, D, D), or (k, C'/groups, D, D) of a grouped convolution.
  static Tensor compact(const Tensor& grad, const Tensor& chosen, const MaybeTensor& scale, const Pass& pass) {
    const Layer& layer = *pass.layer;
    const Tensor& channels = *pass.channels;
    const int64_t k = channels.size(0), rows = pass.weight.size(2), columns = pass.weight.size(3);
    const Tensor one = at::empty({1}, grad.options());
    if (layer.groups == 1) {
      const Tensor blank = one.expand({grad.size(1), k, rows, columns});
      return times(std::get<1>(layer.gradients(grad, chosen, blank, 1, {false, true, false})), scale);
    }
    const int64_t per_group = pass.weight.size(1);
    const Tensor owners = at::floor_divide(channels, per_group);
    const Tensor outputs = owners.unsqueeze(1) * layer.outputs + at::arange(layer.outputs, channels.options());
    const Tensor own = gather(grad, outputs.flatten());
    const Tensor blank = one.expand({own.size(1), 1, rows, columns});
    const Tensor found = std::get<1>(layer.gradients(own, chosen, blank, k, {false, true, false}))
                             .view({k, layer.outputs, rows, columns});
    return scale ? found * scale->index({outputs}).view({k, layer.outputs, 1, 1}) : found;
  }
};

struct Rectify : torch::autograd::Function<Rectify> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double ceiling, bool inplace) {
    Tensor out = x;
    if (inplace) {
      ctx->mark_dirty({x});
      rectify_(out, ceiling);
    } else {
      out = dense(rectified(x, ceiling));
    }
    ctx->save_for_backward({pack(out, ceiling)});
    ctx->saved_data["strides"] = out.strides().vec();
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const Tensor bits = ctx->get_saved_variables()[0];
    variable_list gradients(3);
    {
      at::NoGradGuard guard;
      gradients[0] = pass_through(outputs[0], bits, ctx->saved_data["strides"].toIntVector());
    }
    return once(gradients);
  }
};

using Free = py::call_guard<py::gil_scoped_release>;  // as torch's own operators do

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Layer, LayerPointer>(module, "Layer")
      .def(py::init([](std::string name, Sizes stride, Sizes padding, Sizes dilation, int64_t groups, int64_t outputs,
                       bool onednn, int64_t small) {
        return c10::make_intrusive<Layer>(std::move(name), std::move(stride), std::move(padding), std::move(dilation),
                                          groups, outputs, onednn, small);
      }))
      .def("changed", [](Layer& layer) { ++layer.changes; });
  module.def(
      "project",
      [](const Tensor& x, const MaybeTensor& selected, const MaybeTensor& channels, const Tensor& weight,
         const MaybeTensor& bias, const MaybeTensor& var, const MaybeTensor& mean, const MaybeTensor& gamma,
         const MaybeTensor& beta, double eps, double ceiling, const LayerPointer& layer) {
        const Folded folded{var, mean, gamma, beta, eps, ceiling};
        if (at::GradMode::is_enabled() && (selected || x.requires_grad())) {
          return Project::apply(x, selected, channels, weight, bias, folded, layer);
        }
        at::NoGradGuard guard;
        return output(x, weight, bias, folded, *layer);
      },
      Free());
  module.def("rectify", [](const Tensor& x, double ceiling, bool inplace) { return Rectify::apply(x, ceiling, inplace); },
             Free());
  module.def("pack", &pack, Free());
}
