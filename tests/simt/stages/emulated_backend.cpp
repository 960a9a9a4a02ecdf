// libthink_cuda.so.1 with the emulator in place of a device: the same stages, and the same way to a device's context, behind the driver of
// emulated_driver.cpp.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "libthink/backend/cuda/driver.h"
#include "libthink/backend/cuda/stages.h"
#include "tests/simt/machine.h"

namespace think::cuda {
namespace {

constexpr int32_t kInvalidValue = 1, kOutOfMemory = 2, kLaunchFailed = 719, kCaptureUnsupported = 900;

int32_t state() {
  const int32_t error = simt::machine().admitted();
  return error ? error : simt::machine().fault() ? kLaunchFailed : 0;
}

int32_t unless_capturing() { return simt::machine().capture ? kCaptureUnsupported : state(); }

// Everything in the one stream has ended when a call returns; and a copy in a capture would be one of what lies there at that time.
int32_t copy(const Copy &copy, void *) {
  if (const int32_t error = unless_capturing()) return error;
  auto &memory = simt::machine().memory;
  const size_t width = static_cast<size_t>(copy.width);
  std::vector<char> row(width);
  const auto usable = [&](const void *at) { return !memory.in_window(at) || memory.allows(memory.offset_of(at), width, simt::Use::host); };
  for (int64_t i = 0; i < copy.rows && width > 0; ++i) {
    const char *from = static_cast<const char *>(copy.from) + i * copy.from_pitch;
    char *to = static_cast<char *>(copy.to) + i * copy.to_pitch;
    if (!usable(from) || !usable(to)) return kInvalidValue;
    memory.in_window(from) ? memory.read(row.data(), from, width) : void(std::memcpy(row.data(), from, width));
    memory.in_window(to) ? memory.write(to, row.data(), width) : void(std::memcpy(to, row.data(), width));
  }
  return state();
}

int32_t host_memory(int64_t bytes, void **memory) {
  if (const int32_t error = simt::machine().admitted()) return error;
  *memory = std::malloc(static_cast<size_t>(bytes));
  return *memory ? 0 : kOutOfMemory;
}

int32_t make_event(void **event) {
  static int mark;
  if (const int32_t error = simt::machine().admitted()) return error;
  *event = &mark;
  return 0;
}

constexpr Backend table = with_stages({
    .abi = kBackendAbi,
    .size = sizeof(Backend),
    .version = THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH,
    .minimum_driver = 13000,
    .architectures = "emulated",
    .error_text =
        [](int32_t) {
          static std::string text;
          text = simt::machine().fault().text() + simt::machine().refusal();
          if (text.empty()) text = "the driver refuses";
          return text.c_str();
        },
    .open = open_device,
    .close = close_device,
    .enter = enter_device,
    .leave = leave_device,
    .capturing =
        [](void *, bool *capturing) {
          *capturing = simt::machine().capture != nullptr;
          return simt::machine().admitted();
        },
    .copy = copy,
    .synchronize = [](void *) { return unless_capturing(); },
    .host_memory = host_memory,
    .free_host_memory = [](void *memory) { std::free(memory); },
    .make_event = make_event,
    .free_event = [](void *) {},
    .record = [](void *, void *) { return unless_capturing(); },
    .wait = [](void *) { return unless_capturing(); },
});

}  // namespace
}  // namespace think::cuda

extern "C" const think::cuda::Backend *think_cuda_backend() { return &think::cuda::table; }
