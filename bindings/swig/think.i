/* The public C functions for SWIG. What a language makes of their types is in its own file, which is read first; after status.h comes its THINK_ERRORS, which
 * turns the error record of every later function into an exception or an error value. */
%module think

#if defined(SWIGJAVA)
%include "java.i"
#elif defined(SWIGGO)
%include "go.i"
#endif

/* The macro that marks exported functions is an attribute, which SWIG does not read. */
#define __attribute__(x)
%include "think/version.h"
%include "think/status.h"
THINK_ERRORS
%include "think/tensor.h"
%include "think/context.h"
%include "think/plan.h"
%include "think/basis.h"
%include "think/segment.h"
%include "think/evict.h"
%include "think/score.h"
%include "think/moments.h"
%include "think/select.h"
%include "think/fit.h"
%include "think/compact.h"
%include "think/attend.h"
%include "think/prune.h"
%include "think/cache.h"
%include "think/store.h"
%include "think/dlpack.h"
