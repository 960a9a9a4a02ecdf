// A layer as an SVG picture: the energy of every channel of every KV head on a logarithmic colour scale, and which channels were kept.
#pragma once

#include <string>

#include "layer.h"

namespace think::cli {

std::string draw_heatmap(const Layer &layer, const std::string &title);

}  // namespace think::cli
