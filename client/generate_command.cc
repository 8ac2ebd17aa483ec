#include "client/generate_command.h"

#include <cstdio>
#include <utility>

#include <absl/strings/str_cat.h>

#include "client/connection.h"
#include "client/generate_call.h"
#include "client/generate_result.h"
#include "client/interrupt.h"
#include "client/request_flags.h"
#include "client/text_file.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

constexpr absl::Duration kGenerateTimeout = absl::Hours(1);
constexpr int kMaxChoices = 16;
constexpr int kMaxLogprobs = 20;

void AddMessage(v1::ChatMessages& chat, absl::string_view role, std::string content) {
  v1::ChatMessage& message = *chat.add_messages();
  message.set_role(std::string(role));
  message.set_content(std::move(content));
}

// kInvalidArgument: not exactly one prompt.
absl::Status SetPrompt(const Flags& flags, v1::GenerateRequest& request) {
  int given = 0;
  for (const char* name : {"prompt-ids", "prompt", "prompt-file", "chat"})
    given += flags.Given(name) ? 1 : 0;
  if (given != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "want exactly one of --prompt-ids, --prompt, --prompt-file and --chat; ", given, " given"));
  }
  if (const auto ids = flags.IntList("prompt-ids"))
    request.mutable_token_ids()->mutable_ids()->Assign(ids->begin(), ids->end());
  if (const auto text = flags.String("prompt")) {
    request.set_text(*text);
  }
  if (const auto file = flags.String("prompt-file")) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(*file));
    request.set_text(text);
  }
  if (const auto text = flags.String("chat")) {
    AddMessage(*request.mutable_chat(), "user", *text);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateRequest> MakeRequest(const Flags& flags) {
  v1::GenerateRequest request;
  const auto model = flags.String("model");
  if (!model) return absl::InvalidArgumentError("--model is missing");
  request.set_model(*model);
  RETURN_IF_ERROR(SetPrompt(flags, request));
  ApplySamplingFlags(flags, request);
  request.set_choices(static_cast<int32_t>(flags.Int("n").value_or(1)));
  if (const auto top = flags.Int("logprobs")) {
    request.set_want_logprobs(true);
    request.set_logprobs(static_cast<int32_t>(*top));
  }
  request.set_want_prompt_logprobs(flags.Switch("prompt-logprobs"));
  return request;
}

// Shows a stream on standard output: text, or ids for a model without a tokenizer. Several choices
// come interleaved, so they are shown one after the other once they are whole.
class Printer {
 public:
  Printer(bool text, int choices) : text_(text), live_(choices == 1) {}

  void OnEvent(const v1::GenerateEvent& event) {
    if (!live_) return;
    if (text_) {
      Write(event.text());
    } else {
      for (const v1::GeneratedToken& token : event.tokens()) WriteId(token.id());
    }
    std::fflush(stdout);
  }

  void Finish(const GenerateResult& result) {
    if (live_) {
      Write("\n");
    } else {
      for (size_t i = 0; i < result.choices().size(); ++i) {
        Write(absl::StrCat("[choice ", i, "]\n"));
        any_id_ = false;
        if (text_) Write(result.choices()[i].text);
        if (!text_)
          for (const v1::GeneratedToken& token : result.choices()[i].tokens) WriteId(token.id());
        Write("\n");
      }
    }
    std::fflush(stdout);
  }

 private:
  static void Write(absl::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }
  void WriteId(int32_t id) {
    Write(absl::StrCat(any_id_ ? "," : "", id));
    any_id_ = true;
  }
  bool text_, live_;
  bool any_id_ = false;
};

int RunGenerateCommand(const Flags& flags, const Environment& environment) {
  const absl::StatusOr<v1::GenerateRequest> request = MakeRequest(flags);
  if (!request.ok()) return FailInput(request.status());
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  const bool json = flags.Switch("json");
  bool has_text = true;
  if (!json) {
    const absl::StatusOr<bool> known = HasTokenizer(*connection, request->model());
    if (!known.ok()) return Fail(known.status());
    has_text = *known;
  }
  GenerateResult result({.choices = request->choices(),
                         .logprobs = request->want_logprobs(),
                         .prompt_logprobs = request->want_prompt_logprobs()});
  Printer printer(has_text, request->choices());
  const absl::Status status = RunGenerate(*connection, connection->NewContext(kGenerateTimeout),
                                          *request, result, [&](const v1::GenerateEvent& event) {
                                            if (!json) printer.OnEvent(event);
                                          });
  const bool cancelled = Interrupted();
  if (!status.ok() && !cancelled) {
    if (!json && !result.choices()[0].tokens.empty()) std::fputc('\n', stdout);
    return Fail(status);
  }
  if (cancelled) result.Cancel();
  if (json) {
    std::printf("%s\n", Dump(result.ToJson()).c_str());
  } else {
    printer.Finish(result);
  }
  return cancelled ? Fail(status) : kExitOk;
}

// Reads a line of any length without its end; false at the end of input.
bool ReadLine(std::string& line) {
  line.clear();
  int c = 0;
  while ((c = std::getc(stdin)) != EOF && c != '\n') line.push_back(static_cast<char>(c));
  return c != EOF || !line.empty();
}

// Sends the conversation and adds the answer to it.
absl::Status AnswerTurn(const Connection& connection, v1::GenerateRequest& request) {
  GenerateResult result(WantedResult{});
  Printer printer(/*text=*/true, 1);
  const absl::Status status =
      RunGenerate(connection, connection.NewContext(kGenerateTimeout), request, result,
                  [&](const v1::GenerateEvent& event) { printer.OnEvent(event); });
  if (status.ok() || Interrupted()) {
    printer.Finish(result);
    AddMessage(*request.mutable_chat(), "assistant", result.choices()[0].text);
  }
  return status;
}

int RunChatCommand(const Flags& flags, const Environment& environment) {
  v1::GenerateRequest request;
  const auto model = flags.String("model");
  if (!model) return FailUsage("--model is missing");
  request.set_model(*model);
  ApplySamplingFlags(flags, request);
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  const auto start = [&] {
    request.mutable_chat()->Clear();
    if (const auto system = flags.String("system"))
      AddMessage(*request.mutable_chat(), "system", *system);
  };
  start();
  std::fprintf(stderr, "/exit ends, /new forgets the conversation, Ctrl-C stops an answer\n");
  int exit_code = kExitOk;
  std::string line;
  while (std::fputs("> ", stderr), ReadLine(line)) {
    if (line == "/exit") return exit_code;
    if (line.empty()) continue;
    if (line == "/new") {
      start();
      continue;
    }
    absl::Status status = CheckUtf8("line", line);
    if (status.ok()) {
      AddMessage(*request.mutable_chat(), "user", line);
      status = AnswerTurn(*connection, request);
      if (!status.ok() && !Interrupted()) request.mutable_chat()->mutable_messages()->RemoveLast();
    }
    if (!status.ok() && !Interrupted()) exit_code = Fail(status);
    ClearInterrupt();
  }
  std::fputc('\n', stderr);
  return exit_code;
}

}  // namespace

Command GenerateCommand() {
  std::vector<FlagSpec> flags = {
      LoadedModelFlag(),
      {.name = "prompt-ids",
       .kind = FlagKind::kIntList,
       .value = "IDS",
       .help = "Prompt as token ids, separated by commas"},
      {.name = "prompt",
       .kind = FlagKind::kText,
       .value = "TEXT",
       .help = "Prompt as text, continued as it is"},
      {.name = "prompt-file",
       .value = "FILE",
       .help = "Prompt is the text of FILE, which may be a pipe; - is standard input"},
      {.name = "chat",
       .kind = FlagKind::kText,
       .value = "TEXT",
       .help = "A user's message, put into the chat template"},
      {.name = "n",
       .kind = FlagKind::kInt,
       .value = "CHOICES",
       .help = "Answers to one prompt",
       .fallback = "1",
       .min = 1,
       .max = kMaxChoices},
  };
  Append(flags, SamplingFlags());
  Append(flags, {{.name = "logprobs",
                  .kind = FlagKind::kInt,
                  .value = "TOKENS",
                  .help = "With --json: log-probability of each token and of this many likeliest",
                  .fallback = "none",
                  .min = 0,
                  .max = kMaxLogprobs},
                 {.name = "prompt-logprobs",
                  .kind = FlagKind::kSwitch,
                  .help = "With --json: log-probability of each prompt token",
                  .fallback = "off"},
                 {.name = "json",
                  .kind = FlagKind::kSwitch,
                  .help = "Print one JSON object at the end",
                  .fallback = "text as it comes"}});
  Append(flags, ConnectionFlags("3600"));
  return {.name = "generate",
          .summary = "Continue a prompt",
          .flags = std::move(flags),
          .run = RunGenerateCommand};
}

Command ChatCommand() {
  std::vector<FlagSpec> flags = {
      LoadedModelFlag(),
      {.name = "system",
       .kind = FlagKind::kText,
       .value = "TEXT",
       .help = "System message",
       .fallback = "the template's"},
  };
  Append(flags, SamplingFlags());
  Append(flags, ConnectionFlags("3600"));
  return {.name = "chat",
          .summary = "Talk to a model line by line",
          .flags = std::move(flags),
          .run = RunChatCommand};
}

}  // namespace tessera
