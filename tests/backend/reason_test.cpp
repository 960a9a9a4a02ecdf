// Why there is no CUDA device: every reason, in words that say what to do. Each case is a process of its own, as what is found stays loaded.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>

#include "stand_in_backend.h"
#include "think.h"

namespace {

const std::string folder = STAND_INS;

std::string library(const char *name) { return folder + "/stand_in_" + name + ".so"; }

// A driver that is loaded already is the one that a later dlopen() by name finds.
void use_driver(const char *name) {
  if (!dlopen(library(name).c_str(), RTLD_NOW | RTLD_GLOBAL)) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(2);
  }
}

void use_backend(const std::string &path) { setenv("THINK_BACKEND_PATH", path.c_str(), 1); }

// All three ways to ask, which must agree. Prints the reason and ends the process: 0 = there is a device.
[[noreturn]] void ask() {
  char reason[512] = "";
  int64_t backends = 0;
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  think_context *context = nullptr;
  options.device_type = THINK_DEVICE_CUDA;
  const think_status status = think_context_create(&options, &context, &error);
  if (think_backend_reason(THINK_DEVICE_CUDA, reason, sizeof reason, nullptr, nullptr) != THINK_OK) std::exit(3);
  if (think_query(nullptr, THINK_QUERY_BACKENDS, &backends, nullptr) != THINK_OK) std::exit(4);
  const bool available = backends >> THINK_DEVICE_CUDA & 1;
  if (!(backends >> THINK_DEVICE_CPU & 1)) std::exit(5);
  if (available != (status == THINK_OK) || available != (std::string(reason).rfind("available", 0) == 0)) std::exit(6);
  if (!available && std::string(error.message).find(reason) == std::string::npos) std::exit(7);
  std::fprintf(stderr, "reason: %s; status %d, native %d; context: %s\n", reason, status, error.native_code, available ? "made" : error.message);
  // The process goes on as a CPU-only host does.
  if (context) think_context_destroy(context);
  context = nullptr;
  if (think_context_create(nullptr, &context, nullptr) != THINK_OK) std::exit(8);
  think_context_destroy(context);
  std::exit(available ? 0 : 1);
}

#define EXPECT_NO_DEVICE(prepare, text) \
  EXPECT_EXIT(                          \
      {                                 \
        prepare;                        \
        ask();                          \
      },                                \
      testing::ExitedWithCode(1), text)

TEST(Reason, NotInstalled) {
#if defined(THINK_TEST_WITH_BACKEND)
  if (dlopen("libcuda.so.1", RTLD_NOW)) GTEST_SKIP() << "this host has a driver";
  EXPECT_NO_DEVICE(unsetenv("THINK_BACKEND_PATH"), "no NVIDIA driver: libcuda.so.1 could not be loaded; status 2");
#else
  EXPECT_NO_DEVICE(unsetenv("THINK_BACKEND_PATH"), "libthink_cuda.so.1 is not installed: .*libthink_cuda.so.1 does not exist; THINK_BACKEND_PATH can name another place; status 2");
#endif
}

TEST(Reason, PathDecidesAlone) {
  EXPECT_NO_DEVICE(use_backend(folder + "/nowhere"), "not installed: .*nowhere does not exist");
  // A folder stands for the library inside it.
  EXPECT_NO_DEVICE(use_backend(folder), "not installed: .*/libthink_cuda.so.1 does not exist");
  EXPECT_NO_DEVICE(use_backend(std::string(5000, 'x')), "longer than a path may be");
}

TEST(Reason, FolderHoldsTheLibrary) {
  char scratch[] = "/tmp/think_backend_XXXXXX";
  ASSERT_TRUE(mkdtemp(scratch));
  const std::string link = std::string(scratch) + "/libthink_cuda.so.1";
  ASSERT_EQ(0, symlink(library("backend").c_str(), link.c_str()));
  EXPECT_EXIT(
      {
        use_driver("driver");
        use_backend(scratch);
        ask();
      },
      testing::ExitedWithCode(0), "available: 2 devices, kernels for sm_80 90; so far evict, score, moments, select, fit, compact, attend, prune and rebuild");
  unlink(link.c_str());
  rmdir(scratch);
}

TEST(Reason, PipesAreNotWaitedFor) {
  char scratch[] = "/tmp/think_backend_XXXXXX";
  ASSERT_TRUE(mkdtemp(scratch));
  const std::string pipe = std::string(scratch) + "/libthink_cuda.so.1";
  ASSERT_EQ(0, mkfifo(pipe.c_str(), 0600));
  EXPECT_NO_DEVICE(
      {
        alarm(20);
        use_backend(scratch);
      },
      "could not be loaded: .*libthink_cuda.so.1 is no file; status 2");
  unlink(pipe.c_str());
  rmdir(scratch);
}

// As everywhere, a name without a slash is one in the working directory; dlopen() alone would look for it in the folders of the system.
TEST(Reason, BareNamesAreHere) {
  EXPECT_NO_DEVICE(
      {
        if (chdir(folder.c_str()) != 0) exit(3);
        use_backend("stand_in_backend_of_other_abi.so");
      },
      "is of backend ABI 7");
  EXPECT_NO_DEVICE(use_backend("libc.so.6"), "not installed: ./libc.so.6 does not exist");
}

// Forks again and again while another thread searches: the child asks as well.
[[noreturn]] void fork_while_searching() {
  const auto search = [] {
    char reason[512];
    think_backend_reason(THINK_DEVICE_CUDA, reason, sizeof reason, nullptr, nullptr);
  };
  use_backend(folder + "/nowhere");
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) search();
  });
  bool right = true;
  for (int i = 0; i < 50 && right; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      search();
      _exit(0);
    }
    int status = 0;
    right = waitpid(child, &status, 0) == child && status == 0;
  }
  stop = true;
  other.join();
  std::exit(right ? 0 : 1);
}

TEST(Reason, AForkDuringASearchIsHarmless) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer does not follow a fork of several threads";
#endif
  EXPECT_EXIT(fork_while_searching(), testing::ExitedWithCode(0), "");
}

TEST(Reason, ADriverMayForkWhileItStarts) {
  EXPECT_NO_DEVICE(
      {
        alarm(20);
        use_driver("driver_that_forks");
        use_backend(library("backend"));
      },
      "no CUDA device: the NVIDIA driver finds none");
}

TEST(Reason, NotALibrary) {
  EXPECT_NO_DEVICE(use_backend("/proc/self/status"), "could not be loaded: .*; status 2");
  EXPECT_NO_DEVICE(use_backend(library("other_library")), "stand_in_other_library.so is not a backend of libthink: it has no think_cuda_backend; status 2");
}

TEST(Reason, OtherBuild) {
  EXPECT_NO_DEVICE(use_backend(library("backend_of_other_abi")), "is of backend ABI 7, this library needs [0-9]+: install both from one build; status 2");
  EXPECT_NO_DEVICE(use_backend(library("backend_of_other_version")), "is of version 1.23.45 with a table of .*, this library is .*: install both from one build; status 2");
}

#define EXPECT_DRIVER(driver, text)        \
  EXPECT_NO_DEVICE(                        \
      {                                    \
        use_driver(driver);                \
        use_backend(library("backend"));   \
      },                                   \
      text)

TEST(Reason, Driver) {
  EXPECT_DRIVER("driver_old", "the NVIDIA driver is too old: it supports CUDA 12.8, 13.0 is needed; status 2");
  EXPECT_DRIVER("driver_without_device", "no CUDA device: the NVIDIA driver finds none; status 2, native 100");
  EXPECT_DRIVER("driver_broken", "the NVIDIA driver does not start .error 999.; status 2, native 999");
  EXPECT_DRIVER("driver_of_nothing", "libcuda.so.1 is not a CUDA driver: cuInit is missing; status 2");
  if (!dlopen("libcuda.so.1", RTLD_NOW)) {
    EXPECT_NO_DEVICE(use_backend(library("backend")), "no NVIDIA driver: libcuda.so.1 could not be loaded; status 2");
  }
}

// A context is made in two steps, each of which searches. A device that is gone by the second one is a plain error: nothing was allocated or opened.
[[noreturn]] void lose_the_device() {
  void *driver = dlopen(library("driver").c_str(), RTLD_NOW | RTLD_GLOBAL);
  void *backend = dlopen(library("backend").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!driver || !backend) std::exit(2);
  int &starts = *static_cast<int *>(dlsym(driver, "stand_in_starts"));
  const StandInCalls &calls = *reinterpret_cast<StandInCalls *(*)()>(dlsym(backend, "stand_in_calls"))();
  use_backend(library("backend"));
  static int allocated = 0;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = THINK_DEVICE_CUDA;
  options.allocate = [](void *, size_t bytes, size_t alignment) {
    ++allocated;
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  };
  options.deallocate = [](void *, void *memory, size_t, size_t) { std::free(memory); };
  for (const int searches : {0, 1}) {
    starts = searches;
    think_context *context = nullptr;
    think_error error = THINK_ERROR_INIT;
    if (think_context_create(&options, &context, &error) != THINK_E_UNSUPPORTED || context) std::exit(3);
    if (starts != 0 || error.native_code != 100) std::exit(4);
    if (std::string(error.message).find("no CUDA device: the NVIDIA driver finds none") == std::string::npos) std::exit(5);
    if (allocated != 0 || calls.opened != 0) std::exit(6);
  }
  // Both searches find it, none is left over: the failure above was the second one's.
  starts = 2;
  think_context *context = nullptr;
  if (think_context_create(&options, &context, nullptr) != THINK_OK || starts != 0 || allocated != 1 || calls.opened != 1) std::exit(7);
  think_context_destroy(context);
  std::exit(calls.closed == 1 ? 0 : 8);
}

TEST(Reason, TheDeviceIsGoneBetweenTwoSearches) { EXPECT_EXIT(lose_the_device(), testing::ExitedWithCode(0), ""); }

}  // namespace
