// Whole files in, whole files out. Output appears under its name only when it is complete.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "number.h"

namespace think::cli {

// The contents of a regular file. Throws Failure: kIo when it cannot be opened or read, kInput when it is something else than a regular
// file.
Buffer read_file(const std::string &path);

// Refuses an output path that names one of the inputs or another output (kUsage), or that is not a regular file (kIo).
void check_output(const std::string &output, const std::vector<std::string> &others);

// A file under construction: a temporary file in the folder of `path`, renamed on commit() and removed otherwise, also by SIGINT and
// SIGTERM.
class OutputFile {
 public:
  explicit OutputFile(const std::string &path);
  ~OutputFile();
  OutputFile(const OutputFile &) = delete;
  OutputFile &operator=(const OutputFile &) = delete;

  void write(std::span<const std::byte> bytes);
  void write(const std::string &text);
  void commit();

 private:
  [[noreturn]] void fail(const std::string &what) const;

  std::string path_, temporary_;
  int descriptor_ = -1;
  int slot_ = -1;  // where signals find the temporary file
};

}  // namespace think::cli
