#include "progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace think::cli {

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)),
      total_(std::max<int64_t>(total, 1)),
      terminal_(isatty(STDERR_FILENO) == 1),
      begin_(std::chrono::steady_clock::now()),
      last_(begin_) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void Progress::step(int64_t done) {
  done_ = std::min(done_ + done, total_);
  draw();
}

void Progress::label(const std::string &what) {
  what_ = what;
  draw();
}

void Progress::draw() {
  if (!terminal_) return;
  // Nothing for the first 0.3 s, so that short work does not flicker; ten times a second after that.
  const auto now = std::chrono::steady_clock::now();
  if (now - begin_ < std::chrono::milliseconds(300) || (drawn_ && now - last_ < std::chrono::milliseconds(100))) return;
  last_ = now;
  drawn_ = true;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(done_ * kWidth / total_);
  std::string bar;
  for (int i = 0; i < kWidth; ++i) bar += i < filled ? '#' : '.';
  std::fprintf(stderr, "\r\x1b[K%-24s [%s] %3d %%", what_.c_str(), bar.c_str(), static_cast<int>(done_ * 100 / total_));
  std::fflush(stderr);
}

}  // namespace think::cli
