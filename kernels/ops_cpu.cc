#include "kernels/ops_tables.h"

namespace tessera {

const Ops kCpuOps = {
    .prepare_step = PrepareStepCpu,
    .embed = EmbedCpu,
    .rms_norm = RmsNormCpu,
    .linear = LinearCpu,
    .linear_sequence = LinearSequenceCpu,
    .rope_kv_write = RopeKvWriteCpu,
    .paged_attention = PagedAttentionCpu,
    .count_tokens = CountTokensCpu,
    .sample = SampleCpu,
    .token_logprobs = TokenLogprobsCpu,
    .random_fill = RandomFillCpu,
    .residual_add = ResidualAddCpu,
    .copy_columns = CopyColumnsCpu,
    .silu_mul = SiluMulCpu,
    .repack = RepackCpu,
};

}  // namespace tessera
