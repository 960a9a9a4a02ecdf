// The memory of a string, vector or span as bytes. std::as_bytes(std::span(...)) says the same, but clang before 16 cannot compile it with
// GCC's library.
#pragma once

#include <cstddef>
#include <span>

namespace think::cli {

template <class Container>
std::span<const std::byte> bytes_of(const Container &container) {
  return {reinterpret_cast<const std::byte *>(container.data()), container.size() * sizeof(*container.data())};
}

}  // namespace think::cli
