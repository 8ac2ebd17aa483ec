// Random linear layers on a GPU: a case's arrays, with redzones and poisoned outputs, and the
// arguments that name them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_check.h"
#include "kernels/gemm/linear_config.h"
#include "tests/kernels/gemm/packed_case.h"
#include "tests/support/op_fixture.h"

namespace tessera {

class LinearOnDevice {
 public:
  static constexpr int kSmCount = 132;  // any value: the workspace does not depend on it

  LinearOnDevice(testing::OpDevice& device, const LinearInputs& in)
      : LinearOnDevice(device, in, nullptr) {
    w_.emplace(device.Upload(in.shape.dtype, in.w));
    args_.w = w_->data();
  }

  LinearArgs& args() { return args_; }
  LinearWorkspace workspace() const { return SplitLinearWorkspace(args_); }
  const Stream& stream() const { return device_.stream(); }
  absl::Status Enqueue() { return LinearCuda(args_, stream()); }
  std::vector<float> Read() { return y_.Read(); }

 protected:
  // Without a weight; `workspace` is used if there is one, which outlives this.
  LinearOnDevice(testing::OpDevice& device, const LinearInputs& in,
                 const testing::DeviceBytes* workspace)
      : device_(device),
        x_(device.Upload(in.shape.dtype, in.x)),
        bias_(device.Upload(in.shape.dtype, in.bias)),
        residual_(device.Upload(in.shape.dtype, in.residual)),
        norm_weight_(device.Upload(in.shape.dtype, in.norm_weight)),
        y_(device.Output(in.shape.y_dtype, in.shape.t * in.shape.n)) {
    const LinearCase& c = in.shape;
    if (workspace == nullptr)
      workspace = &workspace_.emplace(device.Workspace(
          LinearWorkspaceBytes(Device::kCuda, kSmCount, c.t, c.n, c.k, c.gated, c.normed)));
    args_ = ArgsOfShape(in);
    args_.weight_dtype = c.dtype;
    args_.x = x_.data();
    if (c.bias) args_.bias = bias_.data();
    if (c.residual) args_.residual = residual_.data();
    args_.y = y_.data();
    if (c.normed) args_.norm_weight = norm_weight_.data();
    args_.workspace = workspace->data();
    args_.workspace_bytes = workspace->bytes();
  }

  LinearArgs args_;

 private:
  testing::OpDevice& device_;
  testing::FloatArray x_, bias_, residual_, norm_weight_, y_;
  std::optional<testing::FloatArray> w_;
  std::optional<testing::DeviceBytes> workspace_;
};

// The same with a packed weight.
class PackedOnDevice : public LinearOnDevice {
 public:
  PackedOnDevice(testing::OpDevice& device, const PackedInputs& in,
                 const testing::DeviceBytes* workspace = nullptr)
      : LinearOnDevice(device, in.linear, workspace),
        values_(device.Upload(in.values)),
        zeros_(device.Upload(in.zeros)),
        scales_(device.Upload(in.scales)),
        steps_(device.Upload(in.group_of_step)) {
    args_.packed = in.weight();
    args_.packed.values = values_.data();
    args_.packed.scales = scales_.data();
    if (!in.zeros.empty()) args_.packed.zeros = zeros_.data();
    if (!in.group_of_step.empty()) args_.packed.group_of_step = steps_.data();
  }

 private:
  testing::DeviceArray<uint8_t> values_, zeros_;
  testing::DeviceArray<uint16_t> scales_, steps_;
};

}  // namespace tessera
