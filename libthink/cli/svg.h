// What the pictures of this program are written with: text, numbers and colours of SVG.
#pragma once

#include <string>

namespace think::cli {

// printf for numbers, at most 256 characters.
std::string format(const char *pattern, double a, double b = 0, double c = 0, double d = 0);

// Text as content or as an attribute.
std::string escape(const std::string &text);

// #rrggbb for a position in 0 .. 1, from dark blue over green to yellow: brightness rises steadily, so that the scale survives grey printing and colour
// blindness.
std::string scale_colour(double position);

// A legend of that scale: `steps` coloured rectangles from left to right, `width` wide in all and 10 high.
std::string colour_bar(double x, double y, double width, int steps);

// The start of a picture: its size, its font, a white ground and its title. Classes: e, m = text that ends or is centred at its place; t, h = text, heading;
// k = filled black; a = a thin grey line. The caller closes it with "</svg>\n".
std::string begin_picture(double width, double height, const std::string &title);

// <text> with an attribute such as class="e".
std::string text_at(double x, double y, const char *attribute, const std::string &content);

}  // namespace think::cli
