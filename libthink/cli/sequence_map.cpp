#include "sequence_map.h"

#include <algorithm>

#include "svg.h"

namespace think::cli {
namespace {

// Rows of heads beyond this many would make a picture that no viewer opens.
constexpr int64_t kMaxRows = 4096;
constexpr double kLeft = 74, kTop = 124, kGap = 10, kPanelGap = 66;

struct Grid {
  int32_t layers, heads;  // that are drawn
  double row;             // height of a head
  double y(int32_t layer, int32_t head = 0) const { return kTop + (layer * heads + head) * row + layer * 2; }
  double height() const { return layers * heads * row + layers * 2; }
};

Grid grid_of(const StoredSequence &sequence) {
  Grid grid{sequence.layers, static_cast<int32_t>(std::min<int64_t>(sequence.kv_heads, kMaxRows)), 9};
  grid.layers = static_cast<int32_t>(std::min<int64_t>(grid.layers, std::max<int64_t>(1, kMaxRows / grid.heads)));
  const int64_t rows = int64_t{grid.layers} * grid.heads;
  if (rows > 48) grid.row = rows > 512 ? 2 : rows > 128 ? 4 : 6;
  return grid;
}

// One side of the last run: strips of kept channels, and beside them a cell per head in the colour of its width.
class Panel {
 public:
  Panel(const StoredSequence &sequence, bool keys, const Grid &grid, double left, std::string &svg)
      : run_(sequence.runs.empty() ? nullptr : &sequence.runs.back()),
        keys_(keys),
        channels_(keys ? sequence.key_channels : sequence.value_channels),
        grid_(grid),
        left_(left),
        svg_(svg) {}

  double strip_width() const { return channels_ * std::clamp(384.0 / channels_, 1.5, 6.0); }
  double cell_width() const { return std::clamp(120.0 / grid_.heads, 3.0, 26.0); }
  double width() const { return strip_width() + kGap + grid_.heads * cell_width(); }

  void draw() {
    int64_t kept = 0;
    for (int32_t layer = 0; layer < grid_.layers; ++layer) {
      for (int32_t head = 0; head < grid_.heads; ++head) kept += width_of(layer, head);
    }
    const double share = 100.0 * static_cast<double>(kept) / (static_cast<double>(grid_.layers) * grid_.heads * channels_);
    const std::string name = keys_ ? "Keys" : "Values";
    svg_ += text_at(left_, kTop - 34, "class=\"h\"", name + (share < 100 ? format(": %.1f %% of the channels kept", share) : ": all channels kept"));
    svg_ += text_at(left_ + strip_width() / 2, kTop - 8, "class=\"m\"", "channel");
    svg_ += text_at(left_ + strip_width() + kGap, kTop - 8, "font-size=\"11\"", "kept per head");
    for (int32_t layer = 0; layer < grid_.layers; ++layer) {
      for (int32_t head = 0; head < grid_.heads; ++head) strip(layer, head), cell(layer, head);
    }
    axis();
  }

 private:
  const StoredSide *side(int32_t layer) const {
    if (!run_) return nullptr;
    const StoredSide &side = (keys_ ? run_->key : run_->value)[layer];
    return side.kept.empty() ? nullptr : &side;
  }
  int32_t width_of(int32_t layer, int32_t head) const { return side(layer) ? side(layer)->kept[head] : channels_; }

  void strip(int32_t layer, int32_t head) {
    const double cell = strip_width() / channels_, y = grid_.y(layer, head) + grid_.row / 2;
    std::vector<bool> kept(channels_, true);
    if (const StoredSide *stored = side(layer)) {
      const int32_t *index = stored->index.data() + static_cast<int64_t>(head) * channels_;
      for (int32_t i = stored->kept[head]; i < channels_; ++i) kept[index[i]] = false;
    }
    std::string path = format("M%.1f %.1f", left_, y);
    for (int32_t channel = 0; channel < channels_;) {
      int32_t end = channel;
      while (end < channels_ && kept[end] == kept[channel]) ++end;
      path += (kept[channel] ? "h" : "m") + format(kept[channel] ? "%.5g" : "%.5g 0", (end - channel) * cell);
      channel = end;
    }
    svg_ += "<path fill=\"none\" stroke=\"" + scale_colour(static_cast<double>(width_of(layer, head)) / channels_) +
            format("\" stroke-width=\"%.1f\" d=\"", grid_.row * 0.85) + path + "\"/>\n";
  }

  void cell(int32_t layer, int32_t head) {
    const double x = left_ + strip_width() + kGap + head * cell_width(), height = grid_.heads * grid_.row;
    const int32_t width = width_of(layer, head);
    const double share = static_cast<double>(width) / channels_;
    const StoredSide *stored = side(layer);
    svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"", x, grid_.y(layer), cell_width() - 0.5, height) +
            scale_colour(share) + "\"><title>layer " + std::to_string(layer) + ", head " + std::to_string(head) + ": " + std::to_string(width) + " of " +
            std::to_string(channels_) + (keys_ ? " key" : " value") + " channels kept" +
            (width == channels_ ? "" : stored && stored->fitted[head] ? ", the others predicted" : ", the others zero") + "</title></rect>\n";
    if (cell_width() < 18 || height < 10) return;
    svg_ += text_at(x + cell_width() / 2, grid_.y(layer) + height / 2 + 3.5, share > 0.6 ? "class=\"n\"" : "class=\"n\" fill=\"#fff\"", std::to_string(width));
  }

  void axis() {
    const int32_t step = channels_ > 128 ? 64 : channels_ > 32 ? 32 : 8;
    const double y = kTop + grid_.height();
    for (int32_t channel = 0; channel < channels_; channel += step) {
      const double x = left_ + (channel + 0.5) * strip_width() / channels_;
      svg_ += format("<path d=\"M%.1f %.1fv5\" class=\"a\"/>\n", x, y);
      svg_ += text_at(x, y + 17, "class=\"m\"", std::to_string(channel));
    }
  }

  const StoredRun *run_;
  bool keys_;
  int32_t channels_;
  const Grid &grid_;
  double left_;
  std::string &svg_;
};

void draw_legend(double x, double y, std::string &svg) {
  constexpr double kWidth = 160;
  svg += colour_bar(x, y, kWidth, 40);
  for (const int percent : {0, 25, 50, 75, 100}) {
    svg += text_at(x + kWidth * percent / 100, y + 24, "class=\"m\"", std::to_string(percent));
  }
  svg += text_at(x + kWidth + 20, y + 10, "class=\"t\"", "% of the head's channels kept; colour of strips and cells");
}

}  // namespace

std::string draw_sequence_map(const StoredSequence &sequence, const std::string &title) {
  const Grid grid = grid_of(sequence);
  std::string panels;
  Panel keys(sequence, true, grid, kLeft, panels);
  Panel values(sequence, false, grid, kLeft + keys.width() + kPanelGap, panels);
  keys.draw();
  values.draw();
  const double width = std::max(kLeft + keys.width() + kPanelGap + values.width() + 40, 660.0), height = kTop + grid.height() + 80;

  std::string svg = begin_picture(width, height, title);
  svg += "<style>.n{text-anchor:middle;font-size:10px}</style>\n";
  svg += text_at(kLeft, 32, "font-size=\"18\" font-weight=\"bold\"", title);
  std::string facts = std::to_string(sequence.tokens()) + " tokens: " + std::to_string(sequence.compact_tokens()) + " compact, " +
                      std::to_string(sequence.dense_rows) + " dense; mode " + sequence.mode + ", " + sequence.budget + " widths; " + sequence.formats_text();
  if (sequence.runs.size() > 1) facts += "; run " + std::to_string(sequence.runs.size()) + " of " + std::to_string(sequence.runs.size());
  if (sequence.runs.empty()) facts += "; nothing has been pruned";
  svg += text_at(kLeft, 54, "font-size=\"12\" fill=\"#555\"", facts);
  if (grid.layers < sequence.layers || grid.heads < sequence.kv_heads) {
    svg += text_at(kLeft, 72, "font-size=\"12\" fill=\"#a00\"",
                   "the first " + std::to_string(grid.layers) + " of " + std::to_string(sequence.layers) + " layers and " +
                       std::to_string(grid.heads) + " of " +
                       std::to_string(sequence.kv_heads) + " KV heads");
  }
  const int32_t step = std::max(1, static_cast<int32_t>(14 / (grid.heads * grid.row) + 0.99));
  for (int32_t layer = 0; layer < grid.layers; layer += step) {
    svg += text_at(kLeft - 8, grid.y(layer) + std::min(grid.heads * grid.row, 14.0) - 3, "class=\"e\"",
                   (layer == 0 ? "layer " : "") + std::to_string(layer));
  }
  svg += panels;
  draw_legend(kLeft, kTop + grid.height() + 42, svg);
  return svg + "</svg>\n";
}

}  // namespace think::cli
