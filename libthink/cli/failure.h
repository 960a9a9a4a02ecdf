// How a command ends when it cannot do its work: an exit code and one clear sentence. Nothing else is thrown on purpose.
#pragma once

#include <stdexcept>
#include <string>

namespace think::cli {

enum ExitCode : int {
  kOk = 0,
  kUsage = 1,     // wrong usage: options, or an output that is also an input
  kInput = 2,     // an input file is damaged, unsupported or does not fit the others
  kLibrary = 3,   // the library refused
  kIo = 4,        // a file cannot be opened, read or written, or memory is not enough
  kSelftest = 5,  // `think selftest` found a wrong result
};

class Failure : public std::runtime_error {
 public:
  Failure(ExitCode code, const std::string &message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Text from a file (names, header values) as it may be shown on a terminal: control characters escaped, long text cut.
std::string printable(const std::string &text, size_t limit = 80);

// [8, 4096, 128]
template <class Extents>
std::string shape_text(const Extents &extents) {
  std::string text = "[";
  for (size_t axis = 0; axis < extents.size(); ++axis) text += (axis ? ", " : "") + std::to_string(extents[axis]);
  return text + "]";
}

}  // namespace think::cli
