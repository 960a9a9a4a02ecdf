// --device cpu | cuda | cuda:N
#pragma once

#include <string>

#include "think/tensor.h"

namespace CLI {
class App;
}

namespace think::cli {

struct DeviceChoice {
  think_device type = THINK_DEVICE_CPU;
  int32_t index = 0;

  bool on_device() const { return type == THINK_DEVICE_CUDA; }
  std::string text() const { return on_device() ? "cuda:" + std::to_string(index) : "cpu"; }
};

// Throws Failure(kUsage) for any other text.
DeviceChoice parse_device(const std::string &text);
void add_device_option(CLI::App &app, std::string &device);

}  // namespace think::cli
