// What every fuzz test does with a file: parse it, and check what the parsers promise about files that they accept. A broken promise
// aborts.
#pragma once

#include <cstddef>
#include <span>

namespace think::fuzz {

void require(bool good, const char *promise);  // or the end

// Each returns whether the bytes were accepted.
bool npy(std::span<const std::byte> file);
bool safetensors(std::span<const std::byte> file);
bool layer(std::span<const std::byte> file);
bool sequence(std::span<const std::byte> file);  // with the digest that belongs to it
bool inspected(std::span<const std::byte> file);  // the part of a sequence that think inspect reads by itself

}  // namespace think::fuzz
