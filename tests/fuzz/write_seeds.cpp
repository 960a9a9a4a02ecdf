// Writes the seed files of one target into a folder: write_seeds npy|safetensors|layer|sequence FOLDER
#include <cstdio>
#include <fstream>
#include <string>

#include "seeds.h"

int main(int argc, char **argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: write_seeds npy|safetensors|layer|sequence FOLDER\n");
    return 1;
  }
  const std::string target = argv[1], folder = argv[2];
  for (int variant = 0; variant < think::fuzz::kVariants; ++variant) {
    const std::string file = target == "npy"        ? think::fuzz::npy_seed(variant)
                             : target == "layer"    ? think::fuzz::layer_seed(variant)
                             : target == "sequence" ? think::fuzz::sequence_seed(variant)
                                                    : think::fuzz::safetensors_seed(variant);
    std::ofstream out(folder + "/seed" + std::to_string(variant), std::ios::binary);
    out << file;
    if (!out.flush()) return 1;
  }
  return 0;
}
