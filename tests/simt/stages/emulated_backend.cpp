// libthink_cuda.so.1 with the emulator in place of a device: the same stages, without what only a driver can do.
#include <string>

#include "libthink/backend/cuda/stages.h"
#include "tests/simt/machine.h"

namespace think::cuda {
namespace {

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
          return text.c_str();
        },
    .open =
        [](int32_t index, Device &device) {
          device = {&simt::machine(), index, 9, 0, 4};
          return 0;
        },
    .close = [](const Device &) {},
    .enter = [](const Device &) { return 0; },
    .leave = [] {},
});

}  // namespace
}  // namespace think::cuda

extern "C" const think::cuda::Backend *think_cuda_backend() { return &think::cuda::table; }
