# Writes OUT, the source that holds the commit SOURCE_DIR is at, when that changed. A script for
# `cmake -P`, run by every build: the commit is not known to the configure step.
set(commit unknown)
find_program(GIT_PROGRAM git)
if(GIT_PROGRAM)
  # No optional locks: a build must not touch the index of a tree in which someone works.
  set(git ${GIT_PROGRAM} --no-optional-locks -C ${SOURCE_DIR})
  execute_process(COMMAND ${git} rev-parse --show-prefix --short=12 HEAD
    OUTPUT_VARIABLE lines RESULT_VARIABLE failed ERROR_QUIET)
  # The first line is empty at the top of a git tree; inside another project's tree it is not.
  if(NOT failed AND lines MATCHES "^\n([0-9a-f]+)\n$")
    set(commit ${CMAKE_MATCH_1})
    execute_process(COMMAND ${git} diff --quiet HEAD -- RESULT_VARIABLE changed ERROR_QUIET)
    if(changed)
      string(APPEND commit -dirty)
    endif()
  endif()
endif()

set(text "#include \"common/build_commit.h\"

namespace tessera {

const char* BuildCommit() { return \"${commit}\"; }

}  // namespace tessera
")
set(old "")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT text STREQUAL old)
  file(WRITE ${OUT} "${text}")
endif()
