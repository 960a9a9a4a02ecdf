#include "device_choice.h"

#include <CLI/CLI.hpp>

#include "failure.h"

namespace think::cli {

DeviceChoice parse_device(const std::string &text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {THINK_DEVICE_CUDA, 0};
  const std::string prefix = "cuda:", digits = text.substr(0, prefix.size()) == prefix ? text.substr(prefix.size()) : "";
  if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos) {
    throw Failure(kUsage, "expected cpu, cuda or cuda:N, got " + printable(text));
  }
  return {THINK_DEVICE_CUDA, std::stoi(digits)};
}

void add_device_option(CLI::App &app, std::string &device) {
  app.add_option("--device", device, "Where: cpu, cuda or cuda:N")
      ->type_name("DEVICE")
      ->check([](const std::string &text) {
        try {
          parse_device(text);
          return std::string();
        } catch (const Failure &failure) {
          return std::string(failure.what());
        }
      })
      ->capture_default_str();
}

}  // namespace think::cli
