#include "file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>

#include "bytes.h"
#include "failure.h"

namespace think::cli {
namespace {

// The temporary files that a signal must remove. No command writes more than two at a time.
constexpr int kSlots = 4;
char unfinished[kSlots][PATH_MAX];
volatile sig_atomic_t used[kSlots];

extern "C" void remove_unfinished(int signal_number) {
  for (int slot = 0; slot < kSlots; ++slot) {
    if (used[slot]) unlink(unfinished[slot]);
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

// -1 when there is no room: then a signal leaves the file behind.
int watch(const std::string &path) {
  for (int slot = 0; slot < kSlots; ++slot) {
    if (used[slot] || path.size() >= sizeof unfinished[slot]) continue;
    std::memcpy(unfinished[slot], path.c_str(), path.size() + 1);
    used[slot] = 1;
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
      struct sigaction before;
      // What is ignored (nohup, a job in the background) stays so.
      if (sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) signal(number, remove_unfinished);
    }
    signal(SIGXFSZ, SIG_IGN);  // a file that is too large is an error of write(), which says so
    return slot;
  }
  return -1;
}

std::string reason() { return std::strerror(errno); }

bool same_file(const struct stat &a, const struct stat &b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

}  // namespace

Buffer read_file(const std::string &path) {
  // Without O_NONBLOCK opening a named pipe would wait for its writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw Failure(kIo, path + ": cannot open: " + reason());
  struct Closer {
    int descriptor;
    ~Closer() { close(descriptor); }
  } closer{descriptor};
  struct stat info;
  if (fstat(descriptor, &info) != 0) throw Failure(kIo, path + ": cannot stat: " + reason());
  if (S_ISDIR(info.st_mode)) throw Failure(kInput, path + ": is a folder, expected a file");
  if (!S_ISREG(info.st_mode)) throw Failure(kInput, path + ": is not a regular file");
  if (info.st_size == 0) throw Failure(kInput, path + ": the file is empty");
  // A sparse file can claim any size; asking for more memory than there is ends in the kernel's out-of-memory killer instead of in an
  // error.
  const int64_t memory = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  if (memory > 0 && info.st_size > memory) {
    throw Failure(kIo, path + ": " + std::to_string(info.st_size) + " bytes are more than this machine's memory");
  }
  Buffer buffer(info.st_size);
  int64_t have = 0;
  while (have < buffer.size()) {
    const ssize_t got = read(descriptor, buffer.data() + have, static_cast<size_t>(buffer.size() - have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Failure(kIo, path + ": cannot read: " + reason());
    if (got == 0) throw Failure(kIo, path + ": the file became shorter while it was read");
    have += got;
  }
  return buffer;
}

namespace {

// What is behind the symbolic links that a name ends in, whether it exists or not; a link again where they go in a circle.
std::filesystem::path behind_links(std::filesystem::path path) {
  std::error_code error;
  for (int links = 0; links < 40 && std::filesystem::is_symlink(path, error); ++links) {
    const std::filesystem::path target = std::filesystem::read_symlink(path, error);
    if (error) break;
    path = path.parent_path() / target;
  }
  return path;
}

// The file that a name means, also where it does not exist yet.
std::filesystem::path meaning(const std::string &name) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(std::filesystem::absolute(behind_links(name), error), error);
  return error ? std::filesystem::path(name) : path;
}

}  // namespace

void check_output(const std::string &output, const std::vector<std::string> &others) {
  struct stat target;
  const bool exists = stat(output.c_str(), &target) == 0;
  if (exists && S_ISDIR(target.st_mode)) throw Failure(kIo, output + ": cannot write: is a folder");
  if (exists && !S_ISREG(target.st_mode)) throw Failure(kIo, output + ": cannot write: is not a regular file");
  for (const std::string &other : others) {
    struct stat info;
    const bool same = meaning(other) == meaning(output) || (exists && stat(other.c_str(), &info) == 0 && same_file(info, target));
    if (same) throw Failure(kUsage, output + ": the output would replace " + (other == output ? "another file of this command" : other));
  }
}

// Behind a symbolic link the file it points to is replaced or made, not the link.
OutputFile::OutputFile(const std::string &path) : path_(behind_links(path).string()) {
  std::error_code error;
  if (std::filesystem::is_symlink(path_, error)) fail(std::strerror(ELOOP));
  const size_t slash = path_.rfind('/');
  temporary_ = (slash == std::string::npos ? "" : path_.substr(0, slash + 1)) + ".think.XXXXXX";  // not longer than any name that a file may have
  descriptor_ = mkostemp(temporary_.data(), O_CLOEXEC);
  if (descriptor_ < 0) {
    temporary_.clear();
    fail("cannot create a file in its folder: " + reason());
  }
  slot_ = watch(temporary_);
  const mode_t mask = umask(0);
  umask(mask);
  // A file system without permissions is one to write to all the same.
  (void)fchmod(descriptor_, 0666 & ~mask);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
  if (slot_ >= 0) used[slot_] = 0;
}

void OutputFile::fail(const std::string &what) const { throw Failure(kIo, path_ + ": cannot write: " + what); }

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(reason());
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void OutputFile::write(const std::string &text) { write(bytes_of(text)); }

void OutputFile::commit() {
  // Some file systems report a full disk only here.
  if (fsync(descriptor_) != 0 && errno != EINVAL) fail(reason());
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (close(descriptor) != 0) fail(reason());
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail(reason());
  temporary_.clear();
  if (slot_ >= 0) used[slot_] = 0;
  slot_ = -1;
}

}  // namespace think::cli
