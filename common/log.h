// Plain log lines on standard error: "2026-11-20T13:05:02.113 I worker rank=1: text".
// Never log prompts or outputs; a request is named by its id.
#pragma once

#include <string>

#include <absl/strings/str_cat.h>
#include <absl/strings/string_view.h>

namespace tessera {

enum class LogLevel { kInfo, kWarning, kError };

// Sets the words that name this process in every line, e.g. "worker rank=1". Call once in main().
void SetLogName(absl::string_view name);

// Writes one line in one system call; safe from any thread.
void LogLine(LogLevel level, absl::string_view text);

template <typename... Args>
void LogInfo(const Args&... args) {
  LogLine(LogLevel::kInfo, absl::StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  LogLine(LogLevel::kWarning, absl::StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  LogLine(LogLevel::kError, absl::StrCat(args...));
}

}  // namespace tessera
