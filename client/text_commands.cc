#include "client/text_commands.h"

#include <cstdio>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "client/connection.h"
#include "client/generate_result.h"
#include "client/interrupt.h"
#include "client/request_flags.h"
#include "client/text_file.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

constexpr absl::Duration kTextTimeout = absl::Seconds(60);

absl::StatusOr<std::string> TextOf(const Flags& flags) {
  if (flags.Given("text") == flags.Given("text-file"))
    return absl::InvalidArgumentError("want one of --text and --text-file");
  if (const auto file = flags.String("text-file")) return ReadTextFile(*file);
  return *flags.String("text");
}

int RunTokenize(const Flags& flags, const Environment& environment) {
  if (!flags.Given("model")) return FailUsage("--model is missing");
  const absl::StatusOr<std::string> text = TextOf(flags);
  if (!text.ok()) return FailInput(text.status());
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  v1::TokenizeRequest request;
  request.set_model(*flags.String("model"));
  if (flags.Switch("chat")) {
    v1::ChatMessage& message = *request.mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content(*text);
  } else {
    request.set_text(*text);
  }
  request.set_add_special_tokens(flags.Switch("add-special-tokens"));
  const auto context = connection->NewContext(kTextTimeout);
  const CancelOnInterrupt cancel(context.get());
  v1::TokenizeResponse response;
  const absl::Status status =
      ToAbsl(connection->inference().Tokenize(context.get(), request, &response), *context);
  if (!status.ok()) return Fail(status);
  if (flags.Switch("json")) {
    FloatJson ids = FloatJson::array();
    for (const int32_t id : response.ids()) ids.push_back(id);
    std::printf("%s\n", Dump({{"tokens", ids}}).c_str());
  } else {
    std::printf("%s\n", absl::StrJoin(response.ids(), ",").c_str());
  }
  return kExitOk;
}

int RunDetokenize(const Flags& flags, const Environment& environment) {
  if (!flags.Given("model")) return FailUsage("--model is missing");
  const auto ids = flags.IntList("ids");
  if (!ids) return FailUsage("--ids is missing");
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  v1::DetokenizeRequest request;
  request.set_model(*flags.String("model"));
  request.mutable_ids()->Assign(ids->begin(), ids->end());
  request.set_skip_special_tokens(flags.Switch("skip-special-tokens"));
  const auto context = connection->NewContext(kTextTimeout);
  const CancelOnInterrupt cancel(context.get());
  v1::DetokenizeResponse response;
  const absl::Status status =
      ToAbsl(connection->inference().Detokenize(context.get(), request, &response), *context);
  if (!status.ok()) return Fail(status);
  if (flags.Switch("json")) {
    std::printf("%s\n", Dump({{"text", response.text()}}).c_str());
  } else {
    std::fwrite(response.text().data(), 1, response.text().size(), stdout);
    std::fputc('\n', stdout);
  }
  return kExitOk;
}

}  // namespace

Command TokenizeCommand() {
  std::vector<FlagSpec> flags = {
      LoadedModelFlag(),
      {.name = "text", .kind = FlagKind::kText, .value = "TEXT", .help = "The text"},
      {.name = "text-file",
       .value = "FILE",
       .help = "The text is that of FILE, which may be a pipe; - is standard input"},
      {.name = "chat",
       .kind = FlagKind::kSwitch,
       .help = "The text is a user's message, put into the chat template",
       .fallback = "off"},
      {.name = "add-special-tokens",
       .kind = FlagKind::kSwitch,
       .help = "Add what the model's tokenizer puts around a prompt",
       .fallback = "off"},
      {.name = "json",
       .kind = FlagKind::kSwitch,
       .help = "Print {\"tokens\": [ids]}",
       .fallback = "ids separated by commas"},
  };
  Append(flags, ConnectionFlags("60"));
  return {.name = "tokenize",
          .summary = "Text to token ids",
          .flags = std::move(flags),
          .run = RunTokenize};
}

Command DetokenizeCommand() {
  std::vector<FlagSpec> flags = {
      LoadedModelFlag(),
      {.name = "ids",
       .kind = FlagKind::kIntList,
       .value = "IDS",
       .help = "Token ids, separated by commas",
       .fallback = "required"},
      {.name = "skip-special-tokens",
       .kind = FlagKind::kSwitch,
       .help = "Leave special tokens out of the text",
       .fallback = "off"},
      {.name = "json",
       .kind = FlagKind::kSwitch,
       .help = "Print {\"text\": TEXT}",
       .fallback = "the text"},
  };
  Append(flags, ConnectionFlags("60"));
  return {.name = "detokenize",
          .summary = "Token ids to text",
          .flags = std::move(flags),
          .run = RunDetokenize};
}

}  // namespace tessera
