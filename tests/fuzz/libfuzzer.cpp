// Entry of libFuzzer; run.sh builds it once per target: THINK_FUZZ_TARGET is npy, safetensors, layer or sequence.
#include <cstdint>
#include <span>

#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  think::fuzz::THINK_FUZZ_TARGET(std::as_bytes(std::span(data, size)));
  return 0;
}
