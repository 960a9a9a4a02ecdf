// think bench --device cuda:N
#pragma once

#include "command.h"
#include "device_choice.h"

namespace think::cli {

void bench_device(const DeviceChoice &device, int32_t tokens, bool quick, Report &report);

}  // namespace think::cli
