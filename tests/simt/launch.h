// The functions of kernels/common/launch.cuh for the emulator. Included by launch.cuh alone.
#pragma once

#include <algorithm>
#include <tuple>
#include <type_traits>

namespace think::ptx {

template <class... P>
int32_t prepare(void (*kernel)(P...), uint32_t shared_bytes) {
  return simt::machine().prepare(reinterpret_cast<const void *>(kernel), shared_bytes);
}

constexpr uint32_t kProcessorShared = 228u * 1024u;

// As if registers were no limit.
template <class... P>
int32_t resident_blocks(int32_t *blocks, void (*)(P...), int32_t threads, uint32_t shared_bytes) {
  *blocks = static_cast<int32_t>(std::min<uint32_t>(2048u / static_cast<uint32_t>(threads), kProcessorShared / (shared_bytes + kReservedShared)));
  return simt::machine().admitted();
}

inline int32_t multiprocessors(int32_t *count) {
  *count = simt::machine().options.multiprocessors;
  return simt::machine().admitted();
}

inline int32_t multiprocessor_shared_bytes(int32_t *bytes) {
  *bytes = kProcessorShared;
  return simt::machine().admitted();
}

template <class... P>
int32_t launch(const Launch &how, void (*kernel)(P...), Same<P>... arguments) {
  static_assert((sizeof(P) + ... + 0) <= 4096, "kernel parameters are limited to 4 KiB");
  static_assert((!std::is_reference_v<P> && ...), "a kernel cannot refer to the host's memory");
  static_assert((std::is_trivially_copyable_v<P> && ...), "kernel parameters are copied byte by byte");
  if (how.grid.x <= 0 || how.grid.y <= 0 || how.grid.z <= 0) return simt::Machine::kSuccess;
  if (const int32_t error = simt::machine().admitted()) return error;
  if (simt::machine().capture) {  // arguments are kept as they are now, as in a graph
    simt::machine().capture->emplace_back([how, kernel, arguments...] { return launch(how, kernel, arguments...); });
    return simt::Machine::kSuccess;
  }
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  };
  const Call call = {kernel, {arguments...}};
  const simt::LaunchSpec spec = {how.name,
                                 {how.grid.x, how.grid.y, how.grid.z},
                                 how.threads,
                                 how.shared_bytes,
                                 how.overlap,
                                 [](const void *data) {
                                   const Call &made = *static_cast<const Call *>(data);
                                   std::apply(made.kernel, made.arguments);
                                 },
                                 &call};
  return simt::machine().launch(spec, reinterpret_cast<const void *>(kernel));
}

inline int32_t set_zero(void *memory, size_t bytes, void *stream) {
  if (const int32_t error = simt::machine().admitted()) return error;
  if (simt::machine().capture) {
    simt::machine().capture->emplace_back([=] { return set_zero(memory, bytes, stream); });
    return simt::Machine::kSuccess;
  }
  simt::machine().end_of_overlap();
  return bytes && !simt::machine().memory.fill(memory, 0, bytes) ? simt::Machine::kInvalidValue : simt::Machine::kSuccess;
}

}  // namespace think::ptx
