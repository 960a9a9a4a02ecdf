#include "libthink/backend/fork.h"

#include <pthread.h>

#include "libthink/backend/cuda_loader.h"
#include "libthink/backend/pool.h"

namespace think {
namespace {

// Always in this order: a driver that forks while it starts holds the lock of the search already.
void before() {
  cuda::before_fork();
  Pool::before_fork();
}
void after_in_parent() {
  Pool::after_fork(false);
  cuda::after_fork();
}
void after_in_child() {
  Pool::after_fork(true);
  cuda::after_fork();
}

// As the library is loaded: a child may be forked in the middle of the first search, or while another thread starts the first workers.
const int error = pthread_atfork(before, after_in_parent, after_in_child);

}  // namespace

int fork_error() { return error; }

}  // namespace think
