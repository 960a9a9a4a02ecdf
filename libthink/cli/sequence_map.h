// A saved sequence as an SVG picture: for every KV head of every layer the channels that are kept, and how many they are.
#pragma once

#include <string>

#include "sequence.h"

namespace think::cli {

std::string draw_sequence_map(const StoredSequence &sequence, const std::string &title);

}  // namespace think::cli
