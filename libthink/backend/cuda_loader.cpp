#include "libthink/backend/cuda_loader.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "libthink/backend/fork.h"
#include "libthink/backend/symbol.h"
#include "think/version.h"

namespace think::cuda {
namespace {

constexpr char kDriver[] = "libcuda.so.1";
constexpr char kPathVariable[] = "THINK_BACKEND_PATH";
constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE

// All contexts of the process share one backend and one driver, which stay loaded as every CUDA program keeps them.
std::mutex search_lock;
std::atomic<pthread_t> searcher{};  // who holds it
const Backend *loaded = nullptr;
void *driver = nullptr;

// The driver itself forks when it has to load its kernel module: then the thread that forks is the one that searches.
bool forks_in_a_search() { return ::pthread_equal(searcher.load(std::memory_order_relaxed), ::pthread_self()); }

class Searching {
 public:
  Searching() : hold_(search_lock) { searcher.store(::pthread_self(), std::memory_order_relaxed); }
  ~Searching() { searcher.store({}, std::memory_order_relaxed); }

 private:
  std::lock_guard<std::mutex> hold_;
};

using Path = char[4096];

Search missing(int32_t error, const char *format, ...) __attribute__((format(printf, 2, 3)));
Search missing(int32_t error, const char *format, ...) {
  Search search{nullptr, 0, error, {}};
  va_list values;
  va_start(values, format);
  std::vsnprintf(search.reason, sizeof search.reason, format, values);
  va_end(values);
  return search;
}

// THINK_BACKEND_PATH (the library, or its folder) decides alone when it is set; otherwise the folder that this library lies in.
bool library_path(Path &path) {
  const char *wanted = ::secure_getenv(kPathVariable);
  int length;
  if (wanted && *wanted) {
    struct stat status;
    const bool folder = ::stat(wanted, &status) == 0 && S_ISDIR(status.st_mode);
    // A name without a slash would be searched for by dlopen(): another file than the one that is looked at here.
    const char *here = std::strchr(wanted, '/') ? "" : "./";
    length = folder ? std::snprintf(path, sizeof path, "%s%s/%s", here, wanted, kLibrary) : std::snprintf(path, sizeof path, "%s%s", here, wanted);
  } else {
    Dl_info self;
    if (!::dladdr(kLibrary, &self) || !self.dli_fname) return false;
    const char *slash = std::strrchr(self.dli_fname, '/');
    const int folder = slash ? static_cast<int>(slash - self.dli_fname) : 1;
    length = std::snprintf(path, sizeof path, "%.*s/%s", folder, slash ? self.dli_fname : ".", kLibrary);
  }
  return length > 0 && static_cast<size_t>(length) < sizeof path;
}

// The end of a path, which is what tells one library from another when a message has no room for all of it.
const char *tail(const char *path) {
  constexpr size_t kMost = 90;
  const size_t length = std::strlen(path);
  return length > kMost ? path + length - kMost : path;
}

// Is the table what this build of the core was compiled for? Only its first fields may be looked at before that is known.
Search check_backend(const Backend *backend, const char *path) {
  if (!backend || backend->abi != kBackendAbi) {
    return missing(0, "%s is of backend ABI %u, this library needs %u: install both from one build", tail(path), backend ? backend->abi : 0, kBackendAbi);
  }
  if (backend->size != sizeof(Backend) || backend->version != think_version()) {
    return missing(0, "%s is of version %d.%d.%d with a table of %u bytes, this library is %s with %u: install both from one build", tail(path),
                   backend->version / 10000, backend->version / 100 % 100, backend->version % 100, static_cast<unsigned>(backend->size),
                   think_version_string(), static_cast<unsigned>(sizeof(Backend)));
  }
  return {backend, 0, 0, {}};
}

// Asks the driver itself, not through the backend's CUDA runtime: that would tell a driver that is too old from none at all, but not how old it is.
Search ask_driver(const Backend &backend) {
  if (!driver) driver = ::dlopen(kDriver, RTLD_NOW | RTLD_LOCAL);
  if (!driver) return missing(0, "no NVIDIA driver: %s could not be loaded", kDriver);
  int (*initialise)(unsigned), (*version)(int *), (*count)(int *);
  if (!find_symbol(driver, "cuInit", initialise) || !find_symbol(driver, "cuDriverGetVersion", version) || !find_symbol(driver, "cuDeviceGetCount", count)) {
    return missing(0, "%s is not a CUDA driver: cuInit is missing", kDriver);
  }
  int installed = 0, devices = 0;
  // The version comes first: it is known without a device, and an old driver is the better explanation for one that does not start.
  if (const int error = version(&installed)) return missing(error, "the NVIDIA driver does not tell its version (error %d)", error);
  if (installed < backend.minimum_driver) {
    return missing(0, "the NVIDIA driver is too old: it supports CUDA %d.%d, %d.%d is needed", installed / 1000, installed % 1000 / 10,
                   backend.minimum_driver / 1000, backend.minimum_driver % 1000 / 10);
  }
  int error = initialise(0);
  if (!error) error = count(&devices);
  if (error == kNoDevice || (!error && devices < 1)) return missing(error, "no CUDA device: the NVIDIA driver finds none");
  if (error) return missing(error, "the NVIDIA driver does not start (error %d)", error);
  return {&backend, devices, 0, {}};
}

}  // namespace

void before_fork() {
  if (!forks_in_a_search()) search_lock.lock();
}
void after_fork() {
  if (!forks_in_a_search()) search_lock.unlock();
}

Search find_backend() {
  if (const int error = fork_error()) return missing(error, "no memory for a fork handler");
  const Searching searching;
  if (loaded) return ask_driver(*loaded);
  Path path;
  if (!library_path(path)) return missing(0, "the folder of libthink or %s is longer than a path may be", kPathVariable);
  struct stat status;
  if (::stat(path, &status) != 0) return missing(0, "%s is not installed: %s does not exist; %s can name another place", kLibrary, tail(path), kPathVariable);
  // dlopen() would wait for somebody to write into a pipe.
  if (!S_ISREG(status.st_mode)) return missing(0, "%s could not be loaded: %s is no file", kLibrary, tail(path));
  void *library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return missing(0, "%s could not be loaded: %s", kLibrary, ::dlerror());
  GetBackend get_backend;
  Search search{};
  if (!find_symbol(library, kEntry, get_backend)) {
    search = missing(0, "%s is not a backend of libthink: it has no %s", tail(path), kEntry);
  } else {
    search = check_backend(get_backend(), path);
  }
  if (!search.backend) {
    ::dlclose(library);
    return search;
  }
  loaded = search.backend;
  return ask_driver(*loaded);
}

}  // namespace think::cuda
