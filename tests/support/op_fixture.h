// Runs one op on the CPU and on a GPU: device arrays with redzones, poisoned outputs, conversion to
// and from 16-bit floats, seeded random data.
//
//   TEST_F(GpuOpTest, AgreesWithTheCpu) {            // skips, with the reason, without a GPU
//     for (OpDevice* on : {&cpu(), &gpu()}) {
//       FloatArray x = on->Upload(DType::kF32, values);
//       auto out = on->Output<int32_t>(n);
//       ASSERT_OK(on->device() == Device::kCpu ? OpCpu(args, on->stream()) : ...);
//       results.push_back(out.Read());
//     }                                             // leaving scope checks the redzones
//   }
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numbers>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "common/check.h"
#include "common/dtype.h"
#include "common/float16.h"
#include "kernels/runtime/runtime.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {

// Values as `dtype` holds them, and back.
inline std::vector<uint8_t> ToBytes(DType dtype, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(SizeOf(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[i * 4], &values[i], 4);
    } else {
      const uint16_t half = dtype == DType::kBf16 ? FloatToBf16(values[i]) : FloatToF16(values[i]);
      std::memcpy(&bytes[i * 2], &half, 2);
    }
  }
  return bytes;
}
inline std::vector<float> FromBytes(DType dtype, const std::vector<uint8_t>& bytes) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(SizeOf(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&values[i], &bytes[i * 4], 4);
    } else {
      uint16_t half;
      std::memcpy(&half, &bytes[i * 2], 2);
      values[i] = dtype == DType::kBf16 ? Bf16ToFloat(half) : F16ToFloat(half);
    }
  }
  return values;
}
// What a double-precision reference should read, so that it sees the op's own inputs.
inline std::vector<float> RoundedTo(DType dtype, const std::vector<float>& values) {
  return FromBytes(dtype, ToBytes(dtype, values));
}

// splitmix64; the same numbers on every machine.
class SeededRandom {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t Bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double Unit() { return static_cast<double>(Bits() >> 11) * 0x1p-53; }  // [0, 1)
  int64_t Below(int64_t n) { return static_cast<int64_t>(Bits() % static_cast<uint64_t>(n)); }
  std::vector<float> Uniform(int64_t n, float low, float high) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = low + (high - low) * static_cast<float>(Unit());
    return values;
  }
  std::vector<float> Normal(int64_t n, float stddev) {  // Box-Muller
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) {
      const double radius = std::sqrt(-2.0 * std::log(1.0 - Unit()));
      v = stddev * static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * Unit()));
    }
    return values;
  }

 private:
  uint64_t state_;
};

// Device memory with a guard on both sides, checked when it goes out of scope: a byte changed there
// fails the test. data() is aligned to 256 bytes; the second guard starts right after the last
// byte.
class DeviceBytes {
 public:
  static constexpr int64_t kRedzone = 1024;
  static constexpr uint8_t kGuard = 0xd7;

  // `contents` is copied in.
  DeviceBytes(Runtime& runtime, const std::vector<uint8_t>& contents)
      : runtime_(&runtime), bytes_(static_cast<int64_t>(contents.size())) {
    std::vector<uint8_t> all(contents.size() + 2 * kRedzone, kGuard);
    if (!contents.empty()) std::memcpy(&all[kRedzone], contents.data(), contents.size());
    const auto base = runtime.AllocateDevice(static_cast<int64_t>(all.size()));
    TESSERA_CHECK(base.ok(), base.status().ToString());
    base_ = static_cast<uint8_t*>(*base);
    CopySync(base_, all.data(), static_cast<int64_t>(all.size()));
  }
  DeviceBytes(DeviceBytes&& other) noexcept
      : runtime_(other.runtime_),
        base_(std::exchange(other.base_, nullptr)),
        bytes_(other.bytes_) {}
  DeviceBytes& operator=(DeviceBytes&&) = delete;
  ~DeviceBytes() {
    if (base_ == nullptr) return;
    CheckRedzones();
    runtime_->FreeDevice(base_);
  }

  uint8_t* data() const { return base_ + kRedzone; }
  int64_t bytes() const { return bytes_; }

  // Waits for the main stream, then copies the contents out.
  std::vector<uint8_t> Read() const {
    std::vector<uint8_t> out(static_cast<size_t>(bytes_));
    CopySync(out.data(), data(), bytes_);
    return out;
  }
  void Write(const std::vector<uint8_t>& contents) const {
    TESSERA_CHECK(static_cast<int64_t>(contents.size()) == bytes_);
    CopySync(data(), contents.data(), bytes_);
  }
  void CheckRedzones() const {
    std::vector<uint8_t> before(kRedzone), after(kRedzone);
    CopySync(before.data(), base_, kRedzone);
    CopySync(after.data(), base_ + kRedzone + bytes_, kRedzone);
    for (size_t i = kRedzone; i-- > 0;) {
      if (before[i] == kGuard) continue;
      ADD_FAILURE() << "byte " << kRedzone - i << " before an array of " << bytes_ << " written";
      break;
    }
    for (size_t i = 0; i < kRedzone; ++i) {
      if (after[i] == kGuard) continue;
      ADD_FAILURE() << "byte " << i << " past an array of " << bytes_ << " bytes written";
      break;
    }
  }

 private:
  void CopySync(void* dst, const void* src, int64_t bytes) const {
    const Stream& stream = runtime_->main_stream();
    absl::Status status = runtime_->Copy(dst, src, bytes, stream);
    if (status.ok()) status = runtime_->Synchronize(stream);
    TESSERA_CHECK(status.ok(), status.ToString());
  }

  Runtime* runtime_;
  uint8_t* base_ = nullptr;
  int64_t bytes_;
};

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(DeviceBytes bytes) : bytes_(std::move(bytes)) {}
  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
  int64_t size() const { return bytes_.bytes() / static_cast<int64_t>(sizeof(T)); }
  std::vector<T> Read() const {
    std::vector<T> out(static_cast<size_t>(size()));
    const std::vector<uint8_t> raw = bytes_.Read();
    if (!raw.empty()) std::memcpy(out.data(), raw.data(), raw.size());
    return out;
  }
  const DeviceBytes& raw() const { return bytes_; }

 private:
  DeviceBytes bytes_;
};

// Floats held as `dtype`, read back as fp32.
class FloatArray {
 public:
  FloatArray(DType dtype, DeviceBytes bytes) : dtype_(dtype), bytes_(std::move(bytes)) {}
  void* data() const { return bytes_.data(); }
  DType dtype() const { return dtype_; }
  int64_t size() const { return bytes_.bytes() / SizeOf(dtype_); }
  std::vector<float> Read() const { return FromBytes(dtype_, bytes_.Read()); }
  const DeviceBytes& raw() const { return bytes_; }

 private:
  DType dtype_;
  DeviceBytes bytes_;
};

// A device and what tests do on it.
class OpDevice {
 public:
  explicit OpDevice(std::unique_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}
  Runtime& runtime() const { return *runtime_; }
  Device device() const { return runtime_->device(); }
  const Stream& stream() const { return runtime_->main_stream(); }
  absl::Status Sync() const { return runtime_->Synchronize(stream()); }

  template <typename T>
  DeviceArray<T> Upload(const std::vector<T>& values) const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<uint8_t> raw(values.size() * sizeof(T));
    if (!raw.empty()) std::memcpy(raw.data(), values.data(), raw.size());
    return DeviceArray<T>(DeviceBytes(*runtime_, raw));
  }
  // Rounded to `dtype` on the way.
  FloatArray Upload(DType dtype, const std::vector<float>& values) const {
    return FloatArray(dtype, DeviceBytes(*runtime_, ToBytes(dtype, values)));
  }
  // Outputs start as NaN (float types, and 16-bit words that stand for them) or 0xa5 bytes, so that
  // an element left unwritten shows.
  template <typename T>
  DeviceArray<T> Output(int64_t count) const {
    const bool is_float = std::is_floating_point_v<T>;
    return DeviceArray<T>(
        Filled(count * static_cast<int64_t>(sizeof(T)), is_float ? kNanByte : kIntByte));
  }
  FloatArray Output(DType dtype, int64_t count) const {
    return FloatArray(dtype, Filled(count * SizeOf(dtype), kNanByte));
  }
  // Scratch that holds NaN patterns: an op must not rely on its contents.
  DeviceBytes Workspace(int64_t bytes) const { return Filled(bytes, kNanByte); }

 private:
  static constexpr uint8_t kNanByte = 0xff, kIntByte = 0xa5;
  DeviceBytes Filled(int64_t bytes, uint8_t with) const {
    return DeviceBytes(*runtime_, std::vector<uint8_t>(static_cast<size_t>(bytes), with));
  }

  std::unique_ptr<Runtime> runtime_;
};

// Ops on the CPU, over two threads so that splitting is exercised.
class CpuOpTest : public ::testing::Test {
 protected:
  static OpDevice& cpu() {
    static OpDevice* device = [] {
      auto runtime = NewRuntime({.device = Device::kCpu, .cpu_threads = 2});
      TESSERA_CHECK(runtime.ok(), runtime.status().ToString());
      return new OpDevice(*std::move(runtime));  // lives as long as the program
    }();
    return *device;
  }
};

// Adds a GPU. Skips where there is none; any other refusal fails.
class GpuOpTest : public CpuOpTest {
 protected:
  void SetUp() override {
    if (Gpu().ok()) return;
    const absl::Status& status = Gpu().status();
    if (status.code() == absl::StatusCode::kFailedPrecondition ||
        status.code() == absl::StatusCode::kUnimplemented)
      GTEST_SKIP() << "no GPU: " << status.message();
    FAIL() << status;
  }
  static OpDevice& gpu() { return **Gpu(); }

 private:
  static absl::StatusOr<OpDevice*>& Gpu() {
    static absl::StatusOr<OpDevice*> device = []() -> absl::StatusOr<OpDevice*> {
      auto runtime = NewRuntime({.device = Device::kCuda});
      if (!runtime.ok()) return runtime.status();
      return new OpDevice(*std::move(runtime));
    }();
    return device;
  }
};

}  // namespace tessera::testing
