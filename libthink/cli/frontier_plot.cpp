#include <algorithm>
#include <cmath>

#include "frontier.h"
#include "svg.h"

namespace think::cli {
namespace {

constexpr double kLeft = 76, kTop = 84, kWidth = 560, kHeight = 400, kList = 40;
constexpr size_t kMaxListed = 24;

// Told apart by brightness as well, and by shape where two are alike in grey.
const char *family_colour(Family family) {
  static constexpr const char *colours[kFamilies] = {"#444444", "#d1495b", "#edae49", "#2b7a78", "#6a4c93", "#1f6fb2", "#9a9a9a"};
  return colours[static_cast<int>(family)];
}

struct Axis {
  double low, high;  // logarithms to the base of 10
  double position(double value) const { return std::clamp((std::log10(value) - low) / (high - low), 0.0, 1.0); }
};

std::string mark(Family family, double x, double y, double size) {
  switch (family) {
    case Family::think:
      return format("d=\"M%.1f %.1fl%.1f %.1f", x - size, y + size * 0.8, size, -1.8 * size) + format("l%.1f %.1fz\"", size, 1.8 * size);
    case Family::evicted:
      return format("d=\"M%.1f %.1fh%.1fv%.1f", x - size * 0.85, y - size * 0.85, 1.7 * size, 1.7 * size) + format("h%.1fz\"", -1.7 * size);
    default:
      return format("d=\"M%.1f %.1fa%.1f %.1f ", x - size, y, size, size) + format("0 1 0 %.1f 0a%.1f %.1f ", 2 * size, size, size) +
             format("0 1 0 %.1f 0z\"", -2 * size);
  }
}

class Plot {
 public:
  Plot(const std::vector<FrontierPoint> &points, std::string &svg) : svg_(svg) {
    double most = 2, least = INFINITY, largest = 0;
    for (const FrontierPoint &point : points) {
      most = std::max(most, 1 / point.share());
      least_smaller_ = std::min(least_smaller_, 1 / point.share());
      largest = std::max(largest, point.error);
      if (point.error > 0) least = std::min(least, point.error);
    }
    if (!std::isfinite(least)) least = 1e-4;
    if (largest <= 0) largest = 10 * least;
    // Four decades: what is below counts as nothing, and is drawn on the lower edge.
    x_ = {std::log10(least_smaller_) - 0.02, std::log10(most) + 0.04};
    y_ = {std::max(std::floor(std::log10(least)), std::ceil(std::log10(largest)) - 4), std::ceil(std::log10(largest))};
    if (y_.high - y_.low < 1) y_.low = y_.high - 1;
  }

  double x(const FrontierPoint &point) const { return kLeft + kWidth * x_.position(1 / point.share()); }
  double y(const FrontierPoint &point) const { return kTop + kHeight * (1 - (point.error > 0 ? y_.position(point.error) : 0)); }

  void axes(const std::string &error_name) {
    svg_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#888\"/>\n", kLeft, kTop, kWidth, kHeight);
    for (const double times : {0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0}) {
      const double logarithm = std::log10(times);
      if (logarithm < x_.low || logarithm > x_.high) continue;
      const double at = kLeft + kWidth * x_.position(times);
      svg_ += format("<path d=\"M%.1f %.1fv%.1f\" class=\"g\"/>\n", at, kTop, kHeight);
      svg_ += text_at(at, kTop + kHeight + 17, "class=\"m\"", format("%gx", times));
    }
    svg_ += text_at(kLeft + kWidth / 2, kTop + kHeight + 36, "class=\"m\"", "smaller than dense 16-bit rows, bytes as held: to the right is better");
    for (int decade = static_cast<int>(y_.low); decade <= static_cast<int>(y_.high); ++decade) {
      for (const double step : {1.0, 2.0, 5.0}) {
        const double value = step * std::pow(10.0, decade), logarithm = std::log10(value);
        if (logarithm > y_.high + 1e-9) continue;
        const double at = kTop + kHeight * (1 - y_.position(value));
        svg_ += format("<path d=\"M%.1f %.1fh%.1f\" class=\"g\"/>\n", kLeft, at, kWidth);
        svg_ += text_at(kLeft - 8, at + 4, "class=\"e\" font-size=\"11\"", format("%g", value));
      }
    }
    svg_ += format("<text transform=\"translate(%.1f %.1f) rotate(-90)\" class=\"m\">", 20, kTop + kHeight / 2) + escape(error_name +
        ": lower is better") + "</text>\n";
  }

  void point(const FrontierPoint &point) {
    svg_ += "<path fill=\"" + std::string(family_colour(point.family)) + "\" fill-opacity=\"" + (point.best ? "1" : "0.75") + "\"" +
            (point.best ? " stroke=\"#111\" stroke-width=\"1.3\" " : " ") + mark(point.family, x(point), y(point), point.best ? 5.5 : 4.2) + "><title>" +
            escape(point.stack) + format(": %.2f times smaller, %.4g", 1 / point.share(), point.error) + "</title></path>\n";
  }

 private:
  std::string &svg_;
  double least_smaller_ = 1;
  Axis x_{}, y_{};
};

}  // namespace

std::string draw_frontier(const std::vector<FrontierPoint> &points, const std::string &title, const std::string &facts, const std::string &error_name) {
  std::vector<const FrontierPoint *> best;  // most bytes first, as they lie from left to right
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    if (point->best) best.push_back(&*point);
  }
  const size_t listed = std::min(best.size(), kMaxListed);
  size_t longest = 30;
  for (size_t i = 0; i < listed; ++i) longest = std::max(longest, std::min<size_t>(best[i]->stack.size(), 70));
  const double list_left = kLeft + kWidth + kList, width = list_left + 100 + 6.1 * static_cast<double>(longest),
               height = std::max(kTop + kHeight + 92, kTop + 40 + 17 * static_cast<double>(listed));
  std::string svg = begin_picture(width, height, title);
  svg += "<style>.g{stroke:#e4e4e4;stroke-width:1}.l{font-size:11px}.b{font-size:10px;font-weight:bold;text-anchor:middle}</style>\n";
  svg += text_at(kLeft, 32, "font-size=\"18\" font-weight=\"bold\"", title);
  svg += text_at(kLeft, 54, "font-size=\"12\" fill=\"#555\"", facts);
  Plot plot(points, svg);
  plot.axes(error_name);
  std::string line;
  for (const FrontierPoint *point : best) line += (line.empty() ? "M" : "L") + format("%.1f %.1f", plot.x(*point), plot.y(*point));
  svg += "<path fill=\"none\" stroke=\"#111\" stroke-width=\"1\" stroke-dasharray=\"4 3\" d=\"" + (line.empty() ? "M0 0" : line) + "\"/>\n";
  for (const FrontierPoint &point : points) plot.point(point);
  svg += text_at(list_left, kTop + 8, "class=\"h\"", "Nothing is both smaller and closer:");
  for (size_t i = 0; i < listed; ++i) {
    const FrontierPoint &point = *best[i];
    svg += text_at(plot.x(point), plot.y(point) - 9, "class=\"b\"", std::to_string(i + 1));
    const double y = kTop + 34 + 17 * static_cast<double>(i);
    svg += text_at(list_left + 14, y, "class=\"e\" font-size=\"11\" font-weight=\"bold\"", std::to_string(i + 1));
    svg += text_at(list_left + 24, y, "class=\"l\"", format("%.2fx  %.4f", 1 / point.share(), point.error));
    svg += "<text x=\"" + format("%.1f\" y=\"%.1f\" class=\"l\" fill=\"", list_left + 100, y) + family_colour(point.family) + "\">" +
           escape(point.stack.substr(0, 70)) + "</text>\n";
  }
  double x = kLeft;
  for (int index = 0; index < kFamilies; ++index) {
    const auto family = static_cast<Family>(index);
    if (std::none_of(points.begin(), points.end(), [&](const FrontierPoint &point) { return point.family == family; })) continue;
    const double y = kTop + kHeight + 62;
    svg += "<path fill=\"" + std::string(family_colour(family)) + "\" " + mark(family, x + 5, y, 5) + "/>\n";
    const std::string name = family_name(family);
    svg += text_at(x + 15, y + 4, "class=\"t\"", name);
    x += 32 + 6.4 * static_cast<double>(name.size());
  }
  return svg + "</svg>\n";
}

}  // namespace think::cli
