// The library as a guest in a host that uses CUDA as well: whatever contexts the calling thread has current, it has the same afterwards. Every call of a public
// function in tests/gpu goes through as_guest() (see CMakeLists.txt).
#pragma once

#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "think.h"

namespace think::gpu_test {

// What the calling thread has current while the library works.
enum class Surroundings { as_they_are, nothing, primary_context, foreign_context };

// How the calls of this process are made; for tests of just that.
struct Watch {
  Surroundings surroundings = Surroundings::as_they_are;
  const char *failing = nullptr;  // function of the driver that fails once in each call that has a status: only the emulator's can
  bool again = true;              // a call that has failed so is made once more
  std::set<std::string> called;   // public functions, since it was cleared
  int failures = 0;               // calls that have failed because of it
};
Watch &watch();

// For the length of a call.
class Guest {
 public:
  explicit Guest(const char *function);
  ~Guest();
  Guest(const Guest &) = delete;

 private:
  const char *function_;
  std::vector<void *> hosts_, expected_;  // stacks of contexts, the current one last
};

bool can_look();                  // the driver has the functions for that
bool can_fail();                  // the driver fails on demand
void fail_once(const char *driver_function);
bool failed();                    // what was to fail has
void expect_refusal(const char *function, think_status status);
bool primary_context_is_in_use();

template <class R, class... P>
R as_guest(const char *name, R (*function)(P...), std::type_identity_t<P>... arguments) {
  watch().called.insert(name);
  if constexpr (std::is_same_v<R, think_status>) {
    if (watch().failing) {
      const Guest guest(name);
      fail_once(watch().failing);
      const think_status status = function(arguments...);
      if (!failed()) return status;
      ++watch().failures;
      expect_refusal(name, status);
      if (!watch().again) return status;
    }
  }
  const Guest guest(name);
  return function(arguments...);
}

}  // namespace think::gpu_test
