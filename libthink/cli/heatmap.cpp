#include "heatmap.h"

#include <algorithm>
#include <cmath>

#include "svg.h"

namespace think::cli {
namespace {

// Rows beyond this many would make a picture that no viewer opens.
constexpr int32_t kMaxHeads = 256;
constexpr double kLeft = 84, kRight = 118, kTop = 96;
// A kept cell, a dropped one, the strip of kept runs below them, the space to the next head.
constexpr double kBand = 22, kShort = 7, kStrip = 5, kRowGap = 9;

struct Scale {
  double low, high;  // log10 of the energy
  double position(double energy) const { return energy > 0 ? (std::log10(energy) - low) / (high - low) : 0.0; }
};

// Both sides share no scale: keys and values differ by orders of magnitude.
Scale scale_of(const LayerSide &side) {
  double low = 0, high = 0;
  bool any = false;
  for (const float energy : side.energy) {
    if (!(energy > 0)) continue;
    const double logarithm = std::log10(energy);
    low = any ? std::min(low, logarithm) : logarithm;
    high = any ? std::max(high, logarithm) : logarithm;
    any = true;
  }
  low = std::floor(low);
  high = std::ceil(high);
  if (high - low < 1) high = low + 1;
  // Dead channels would stretch the scale until all the others look alike.
  if (high - low > 8) low = high - 8;
  return {low, high};
}

class Panel {
 public:
  Panel(const LayerSide &side, const char *name, double top, double cell, std::string &svg)
      : side_(side),
        name_(name),
        top_(top),
        cell_(cell),
        scale_(scale_of(side)),
        heads_(std::min<int32_t>(static_cast<int32_t>(side.kept.size()), kMaxHeads)),
        svg_(svg) {}

  static double height(const LayerSide &side) {
    const double heads = std::min<double>(static_cast<double>(side.kept.size()), kMaxHeads);
    return 44 + heads * (kBand + kStrip + kRowGap) + 84;
  }

  void draw() {
    heading();
    for (int32_t head = 0; head < heads_; ++head) row(head);
    axis();
    legend();
  }

 private:
  double row_top(int32_t head) const { return top_ + 32 + head * (kBand + kStrip + kRowGap); }

  void text(double x, double y, const char *style, const std::string &content) { svg_ += text_at(x, y, style, content); }

  void heading() {
    const double share = 100.0 * static_cast<double>(side_.kept_total()) / (static_cast<double>(side_.kept.size()) * side_.channels);
    text(kLeft, top_ + 16, "class=\"h\"",
         std::string(name_) + (side_.is_dense() ? ": all channels kept" : format(": %.1f %% of the channels kept", share)));
  }

  void row(int32_t head) {
    const double y = row_top(head);
    const int64_t begin = static_cast<int64_t>(head) * side_.channels;
    std::vector<bool> kept(side_.channels, false);
    for (int32_t i = 0; i < side_.kept[head]; ++i) kept[side_.index[begin + i]] = true;
    text(kLeft - 8, y + kBand / 2 + 4, "class=\"e\"", "head " + std::to_string(head));
    for (int32_t channel = 0; channel < side_.channels; ++channel) {
      const std::string colour = scale_colour(scale_.position(side_.energy[begin + channel]));
      // Colour tells the energy and height tells the fate: a dropped channel is a short cell, at full colour so that its energy can still
      // be read.
      const double height = kept[channel] ? kBand : kShort;
      svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" ", kLeft + channel * cell_, y + (kBand - height) / 2,
                     cell_ - 0.4, height) +
              "fill=\"" + colour + "\"><title>head " + std::to_string(head) + ", channel " + std::to_string(channel) +
              (kept[channel] ? ", kept" : ", dropped") + format(", energy %.3g", side_.energy[begin + channel]) + "</title></rect>\n";
    }
    // The strip below: runs of kept channels as bars.
    for (int32_t channel = 0; channel < side_.channels;) {
      int32_t end = channel;
      while (end < side_.channels && kept[end]) ++end;
      if (end > channel) {
        svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"k\"/>\n", kLeft + channel * cell_,
                       y + kBand + 1.5, (end - channel) * cell_ - 0.4, kStrip - 1);
      }
      channel = std::max(end, channel + 1);
    }
    text(kLeft + side_.channels * cell_ + 10, y + kBand / 2 + 4, "class=\"t\"",
         std::to_string(side_.kept[head]) + " of " + std::to_string(side_.channels));
  }

  void axis() {
    const double y = row_top(heads_) - 1;
    const int32_t step = side_.channels > 128 ? 32 : side_.channels > 32 ? 16 : 8;
    for (int32_t channel = 0; channel < side_.channels; channel += step) {
      const double x = kLeft + (channel + 0.5) * cell_;
      svg_ += format("<path d=\"M%.1f %.1fv5\" class=\"a\"/>\n", x, y);
      text(x, y + 17, "class=\"m\"", std::to_string(channel));
    }
    text(kLeft + side_.channels * cell_ / 2, y + 33, "class=\"m\"", "channel");
  }

  void legend() {
    const double y = row_top(heads_) + 46, width = 200;
    svg_ += colour_bar(kLeft, y, width, 50);
    const int decades = static_cast<int>(scale_.high - scale_.low);
    const int step = decades > 4 ? 2 : 1;
    for (int decade = 0; decade <= decades; decade += step) {
      const int power = static_cast<int>(scale_.low) + decade;
      const double x = kLeft + width * decade / decades;
      svg_ += format("<path d=\"M%.1f %.1fv4\" class=\"a\"/>\n", x, y + 10);
      svg_ += format("<text x=\"%.1f\" y=\"%.1f\" class=\"m\">", x, y + 26) + "10<tspan dy=\"-4\" font-size=\"8\">" +
              std::to_string(power) + "</tspan></text>\n";
    }
    text(kLeft + width + 16, y + 9, "class=\"t\"", "energy: mean square");
    const double x = kLeft + width + 168;
    const std::string sample = scale_colour(0.55);
    svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"14\" ", x, y - 4) + "fill=\"" + sample + "\"/>\n";
    svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"4\" class=\"k\"/>\n", x, y + 11.5);
    text(x + 20, y + 9, "class=\"t\"", "kept");
    svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"4.5\" ", x + 62, y + 0.7) + "fill=\"" + sample + "\"/>\n";
    text(x + 82, y + 9, "class=\"t\"", "dropped");
  }

  const LayerSide &side_;
  const char *name_;
  double top_, cell_;
  Scale scale_;
  int32_t heads_;
  std::string &svg_;
};

}  // namespace

std::string draw_heatmap(const Layer &layer, const std::string &title) {
  // Cells as wide as fit into a screen: 128 channels take 896 points.
  const int32_t channels = std::max(layer.key.channels, layer.value.channels);
  const double cell = std::clamp(896.0 / channels, 3.6, 11.0);
  const double key_height = Panel::height(layer.key), value_height = Panel::height(layer.value);
  const double width = std::max(kLeft + channels * cell + kRight, 660.0), height = kTop + key_height + value_height;

  std::string svg = begin_picture(width, height, title);
  svg += format("<text x=\"%.1f\" y=\"32\" font-size=\"18\" font-weight=\"bold\">", kLeft) + escape(title) + "</text>\n";
  const double saved = 100.0 * (1.0 - static_cast<double>(layer.stored_bytes()) / static_cast<double>(layer.dense_bytes()));
  std::string facts = std::to_string(layer.tokens) + " tokens: " + std::to_string(layer.rows) + " compact, " +
                      std::to_string(layer.dense_rows()) + " dense; mode " + layer.mode + ", " + layer.budget + " widths; " +
                      format("%.2f of %.2f MiB stored, %.1f %% saved", static_cast<double>(layer.stored_bytes()) / 1048576.0,
                             static_cast<double>(layer.dense_bytes()) / 1048576.0, saved);
  svg += format("<text x=\"%.1f\" y=\"54\" font-size=\"12\" fill=\"#555\">", kLeft) + escape(facts) + "</text>\n";
  if (layer.kv_heads > kMaxHeads) {
    svg += format("<text x=\"%.1f\" y=\"72\" font-size=\"12\" fill=\"#a00\">", kLeft) + "the first " + std::to_string(kMaxHeads) + " of " +
           std::to_string(layer.kv_heads) + " KV heads</text>\n";
  }
  Panel(layer.key, "Keys", kTop - 12, cell, svg).draw();
  Panel(layer.value, "Values", kTop - 12 + key_height, cell, svg).draw();
  return svg + "</svg>\n";
}

}  // namespace think::cli
