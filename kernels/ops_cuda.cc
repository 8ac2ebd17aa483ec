#include "kernels/ops_tables.h"

namespace tessera {

const Ops kCudaOps = {
    .prepare_step = PrepareStepCuda,
    .embed = EmbedCuda,
    .rms_norm = RmsNormCuda,
    .linear = LinearCuda,
    .linear_sequence = LinearSequenceCuda,
    .rope_kv_write = RopeKvWriteCuda,
    .paged_attention = PagedAttentionCuda,
    .count_tokens = CountTokensCuda,
    .sample = SampleCuda,
    .token_logprobs = TokenLogprobsCuda,
    .random_fill = RandomFillCuda,
    .residual_add = ResidualAddCuda,
    .copy_columns = CopyColumnsCuda,
    .silu_mul = SiluMulCuda,
    .repack = RepackCuda,
};

}  // namespace tessera
