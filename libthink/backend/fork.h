// fork() waits for whoever holds one of the library's locks, so that a child finds them open.
#pragma once

namespace think {

// 0 = it does; otherwise why the handlers could not be registered as the library was loaded.
int fork_error();

}  // namespace think
