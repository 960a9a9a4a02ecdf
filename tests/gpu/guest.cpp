#include "guest.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "libthink/backend/symbol.h"

namespace think::gpu_test {
namespace {

constexpr int kAnyError = 999;

// The driver's functions for contexts. Prototypes are ours: CUdevice is an int, a context a pointer.
struct Contexts {
  bool there = false;
  int (*current)(void **) = nullptr;
  int (*push)(void *) = nullptr;
  int (*pop)(void **) = nullptr;
  int (*create)(void **, unsigned, int) = nullptr;
  int (*retain)(void **, int) = nullptr;
  int (*release)(int) = nullptr;
  int (*state)(int, unsigned *, int *) = nullptr;
  int (*fail)(const char *, int) = nullptr;  // of the emulator's driver alone
  void *foreign = nullptr;
};

Contexts find_contexts() {
  Contexts found;
  void *driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver) return found;
  const auto find = [&](const char *name, auto &function) { return find_symbol(driver, name, function); };
  int (*start)(unsigned) = nullptr, (*device)(int *, int) = nullptr, number = 0;
  found.there = find("cuInit", start) && find("cuDeviceGet", device) && find("cuCtxGetCurrent", found.current) && find("cuCtxPushCurrent_v2", found.push) &&
                find("cuCtxPopCurrent_v2", found.pop) && find("cuCtxCreate_v2", found.create) && find("cuDevicePrimaryCtxRetain", found.retain) &&
                find("cuDevicePrimaryCtxRelease_v2", found.release) && find("cuDevicePrimaryCtxGetState", found.state) && !start(0) && !device(&number, 0);
  find("emulated_driver_fail", found.fail);
  return found;
}

Contexts &contexts() {
  static Contexts found = find_contexts();
  return found;
}

// No function reads more of the stack than its top.
std::vector<void *> take_all() {
  std::vector<void *> stack;
  for (void *top = nullptr; !contexts().current(&top) && top;) {
    void *popped = nullptr;
    EXPECT_EQ(0, contexts().pop(&popped));
    EXPECT_EQ(top, popped);
    stack.insert(stack.begin(), popped);
  }
  return stack;
}

void put_all(const std::vector<void *> &stack) {
  for (void *context : stack) EXPECT_EQ(0, contexts().push(context));
}

// Stays: a host does not make one for every call either.
void *foreign_context() {
  if (!contexts().foreign) {
    void *popped = nullptr;
    EXPECT_EQ(0, contexts().create(&contexts().foreign, 0, 0)) << "cuCtxCreate";
    EXPECT_EQ(0, contexts().pop(&popped));
  }
  return contexts().foreign;
}

void *primary_context() {
  void *context = nullptr;
  EXPECT_EQ(0, contexts().retain(&context, 0)) << "cuDevicePrimaryCtxRetain";
  return context;
}

std::string listed(const std::vector<void *> &stack) { return testing::PrintToString(stack); }

// What a test has made current it has given back.
class AtTheEnd : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo &) override {
    if (!contexts().there) return;
    const std::vector<void *> left = take_all();
    if (!left.empty()) ADD_FAILURE() << "contexts are still current: " << listed(left);
  }
};
const bool listening = (testing::UnitTest::GetInstance()->listeners().Append(new AtTheEnd), true);

}  // namespace

Watch &watch() {
  static Watch one;
  return one;
}

Guest::Guest(const char *function) : function_(function) {
  if (!contexts().there) return;
  hosts_ = take_all();
  switch (watch().surroundings) {
    case Surroundings::as_they_are: expected_ = hosts_; break;
    case Surroundings::nothing: break;
    case Surroundings::primary_context: expected_ = {primary_context()}; break;
    case Surroundings::foreign_context: expected_ = {foreign_context(), foreign_context()}; break;
  }
  put_all(expected_);
}

Guest::~Guest() {
  if (!contexts().there) return;
  const std::vector<void *> found = take_all();
  if (found != expected_) ADD_FAILURE() << function_ << "() changes the contexts that are current: " << listed(expected_) << " became " << listed(found);
  if (watch().surroundings == Surroundings::primary_context) contexts().release(0);
  put_all(hosts_);
}

bool can_look() { return contexts().there; }

bool can_fail() { return contexts().fail != nullptr; }

void fail_once(const char *driver_function) { contexts().fail(driver_function, kAnyError); }

bool failed() { return contexts().fail("", 0) == 0; }

void expect_refusal(const char *function, think_status status) {
  EXPECT_EQ(THINK_E_DEVICE, status) << function << "() when the driver's " << watch().failing << " fails";
}

bool primary_context_is_in_use() {
  unsigned flags = 0;
  int active = 0;
  EXPECT_EQ(0, contexts().state(0, &flags, &active));
  return active != 0;
}

}  // namespace think::gpu_test
