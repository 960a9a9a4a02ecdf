// libthink_cuda.so.1 with the emulator in place of a device: the table of libthink/backend/cuda/backend.cpp, without what only a driver can do.
#include "kernels/compact/cuda.h"
#include "kernels/score/cuda.h"
#include "kernels/select/cuda.h"
#include "libthink/backend/cuda_backend.h"
#include "tests/simt/machine.h"

namespace think::cuda {
namespace {

constexpr Backend table = {
    .abi = kBackendAbi,
    .size = sizeof(Backend),
    .version = THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH,
    .minimum_driver = 13000,
    .architectures = "emulated",
    .stages = "score, select and compact",
    .error_text = [](int32_t) { return "see simt::machine().fault()"; },
    .open =
        [](int32_t index, Device &device) {
          device = {&simt::machine(), index, 9, 0, 4};
          return 0;
        },
    .close = [](const Device &) {},
    .enter = [](const Device &) { return 0; },
    .leave = [] {},
    .load =
        [] {
          if (const int32_t error = score::cuda::load()) return error;
          if (const int32_t error = select::cuda::load()) return error;
          return compact::cuda::load();
        },
    .score_workspace = score::cuda::workspace,
    .score_reset = score::cuda::reset,
    .score_update = score::cuda::update,
    .score_finish = score::cuda::finish,
    .score_values = score::cuda::value_score,
    .budgets_workspace = select::cuda::budgets_workspace,
    .budgets = select::cuda::budgets,
    .select = select::cuda::select,
    .place = compact::cuda::place,
    .compact = compact::cuda::compact,
};

}  // namespace
}  // namespace think::cuda

extern "C" const think::cuda::Backend *think_cuda_backend() { return &think::cuda::table; }
