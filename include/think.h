/**
 * @file think.h
 * @brief libthink: smaller key-value caches by dropping or folding channels. Umbrella of the public C API.
 *
 * Read the headers in the order of the flow: a context and a plan, then (evict ->) score -> moments -> select -> fit -> compact -> attend, or prune, which
 * runs the middle of it in one call; or let a think_cache do all of it. The optional header think/dlpack.h and the function table think/api.h are not included here.
 */
#ifndef THINK_H
#define THINK_H

#include "think/version.h"
#include "think/status.h"
#include "think/tensor.h"
#include "think/context.h"
#include "think/plan.h"
#include "think/basis.h"
#include "think/segment.h"
#include "think/evict.h"
#include "think/score.h"
#include "think/moments.h"
#include "think/select.h"
#include "think/fit.h"
#include "think/compact.h"
#include "think/attend.h"
#include "think/prune.h"
#include "think/cache.h"
#include "think/store.h"

#endif
