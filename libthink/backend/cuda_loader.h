// Finds, checks and loads libthink_cuda.so.1, the first time that somebody asks for a CUDA device or for the reason why there is none.
#pragma once

#include <cstdint>

#include "libthink/backend/cuda_backend.h"

namespace think::cuda {

struct Search {
  const Backend *backend;  // NULL: see reason
  int32_t devices;
  int32_t error;           // of the driver, 0 = none
  char reason[224];
};

// What is found stays loaded and is found at once afterwards; what was missing is looked for again.
Search find_backend();

// Around every fork (fork.h).
void before_fork();
void after_fork();

}  // namespace think::cuda
