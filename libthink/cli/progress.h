// A progress bar on stderr for work that takes longer than a moment. Draws nothing when stderr is not a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace think::cli {

class Progress {
 public:
  Progress(std::string what, int64_t total);
  ~Progress();  // removes the bar
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;

  void step(int64_t done = 1);
  void label(const std::string &what);  // the bar goes on under another name

 private:
  void draw();

  std::string what_;
  int64_t total_, done_ = 0;
  bool terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point begin_, last_;
};

}  // namespace think::cli
