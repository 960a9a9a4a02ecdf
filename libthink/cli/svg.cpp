#include "svg.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace think::cli {

std::string format(const char *pattern, double a, double b, double c, double d) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, a, b, c, d);
  return text;
}

std::string escape(const std::string &text) {
  std::string result;
  for (const char character : text) {
    switch (character) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += character;
    }
  }
  return result;
}

std::string scale_colour(double position) {
  using Colour = std::array<double, 3>;
  static constexpr std::array<Colour, 6> stops = {
      {{38, 20, 84}, {52, 66, 140}, {33, 120, 140}, {40, 168, 118}, {142, 212, 62}, {252, 236, 60}}};
  const double scaled = std::clamp(position, 0.0, 1.0) * (stops.size() - 1);
  const size_t low = std::min(static_cast<size_t>(scaled), stops.size() - 2);
  const double part = scaled - static_cast<double>(low);
  unsigned mixed[3];
  for (size_t i = 0; i < 3; ++i) mixed[i] = static_cast<unsigned>(stops[low][i] + (stops[low + 1][i] - stops[low][i]) * part + 0.5);
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", mixed[0], mixed[1], mixed[2]);
  return text;
}

std::string colour_bar(double x, double y, double width, int steps) {
  std::string bar;
  for (int i = 0; i < steps; ++i) {
    bar += format("<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"10\" fill=\"", x + i * width / steps, y, width / steps + 0.3) +
           scale_colour((i + 0.5) / steps) + "\"/>\n";
  }
  return bar;
}

std::string begin_picture(double width, double height, const std::string &title) {
  return format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" ", width, height, width,
                height) +
         "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n"
         "<style>.e{text-anchor:end}.m{text-anchor:middle;font-size:11px}.t{font-size:12px}.h{font-size:14px;font-weight:bold}"
         ".k{fill:#111}.a{stroke:#888;stroke-width:1}</style>\n"
         "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<title>" +
         escape(title) + "</title>\n";
}

std::string text_at(double x, double y, const char *attribute, const std::string &content) {
  return format("<text x=\"%.1f\" y=\"%.1f\" ", x, y) + attribute + ">" + escape(content) + "</text>\n";
}

}  // namespace think::cli
