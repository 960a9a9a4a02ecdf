// Small valid files to start from.
#pragma once

#include <string>

namespace think::fuzz {

std::string npy_seed(int variant);
std::string safetensors_seed(int variant);
std::string layer_seed(int variant);
std::string sequence_seed(int variant);

constexpr int kVariants = 4;

}  // namespace think::fuzz
