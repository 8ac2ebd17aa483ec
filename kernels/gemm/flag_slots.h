// Which flags in static device memory a launch uses whose blocks wait for each other.
#pragma once

namespace tessera {

inline constexpr int kFlagSlots = 16;

// Below kFlagSlots. Flags go with workspaces: launches that may run at once have workspaces of
// their own. The last kFlagSlots workspaces keep theirs.
int FlagSlotOf(const void* workspace);

}  // namespace tessera
