#include "wan/text_encoder.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace surgery {
namespace {

TextEncoderConfig small_config() {
  TextEncoderConfig config;
  config.vocab_size = 50;
  config.d_model = 16;
  config.d_kv = 4;
  config.d_ff = 24;
  config.num_layers = 2;
  config.num_heads = 4;
  return config;
}

at::Tensor unit(const at::Tensor& rows) {
  return rows / rows.norm(2, {1}, true);
}
at::Tensor ids(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong).unsqueeze(0);
}

template <class Statement>
void expect_data_error(const std::string& part, Statement statement) {
  try {
    statement();
    ADD_FAILURE() << "no error; expected one that says: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(RelativePositionBucket, FollowsThePublishedTable) {
  const auto expected = [](int64_t distance) -> int64_t {
    if (distance < 8) return distance;
    return distance <= 11   ? 8
           : distance <= 15 ? 9
           : distance <= 22 ? 10
           : distance <= 31 ? 11
           : distance <= 45 ? 12
           : distance <= 63 ? 13
           : distance <= 90 ? 14
                            : 15;
  };
  for (int64_t distance = 0; distance < 600; ++distance) {
    EXPECT_EQ(relative_position_bucket(-distance, 32, 128), expected(distance)) << -distance;
    EXPECT_EQ(relative_position_bucket(distance, 32, 128), expected(distance) + (distance > 0 ? 16 : 0))
        << distance;
  }
}

TEST(RelativePositionBucket, OtherNumbersFollowTheSameLaw) {
  for (const auto& [buckets, limit] : {std::pair<int64_t, int64_t>{8, 16}, {16, 64}, {64, 512}}) {
    int64_t last = -1;
    for (int64_t distance = 0; distance < 2 * limit; ++distance) {
      const int64_t bucket = relative_position_bucket(-distance, buckets, limit);
      EXPECT_GE(bucket, last);
      EXPECT_LE(bucket, last + 1) << "a bucket was skipped at " << distance;
      EXPECT_EQ(relative_position_bucket(distance, buckets, limit),
                bucket + (distance > 0 ? buckets / 2 : 0));
      last = bucket;
    }
    EXPECT_EQ(last, buckets / 2 - 1);
  }
}

TEST(TextEncoder, PadsBehindTheMaskChangeNothing) {
  const TextEncoder encoder = TextEncoder::random(small_config(), {7});
  const at::Tensor alone = encoder.forward(ids({5, 9, 1}), at::ones({1, 3}, at::kLong));
  at::Tensor mask = at::zeros({1, 8}, at::kLong);
  mask.slice(1, 0, 3).fill_(1);
  const at::Tensor padded = encoder.forward(ids({5, 9, 1, 0, 0, 0, 0, 0}), mask);
  EXPECT_LT((padded.slice(1, 0, 3) - alone).norm().item<double>() / alone.norm().item<double>(), 1e-6);
  const at::Tensor unmasked = encoder.forward(ids({5, 9, 1, 0, 0, 0, 0, 0}), at::ones({1, 8}, at::kLong));
  EXPECT_GT((unmasked.slice(1, 0, 3) - alone).norm().item<double>() / alone.norm().item<double>(), 1e-3);
}

TEST(TextEncoder, ARandomOneKeepsWordsApart) {
  const TextEncoder encoder = TextEncoder::random(small_config(), {7});
  const at::Tensor rows = encoder.forward(ids({5, 9, 13, 1}), at::ones({1, 4}, at::kLong))[0];
  const at::Tensor words =
      at::index_select(TextEncoder(encoder).parameters().at("shared.weight"), 0, ids({5, 9, 13, 1})[0]);
  const at::Tensor likeness = at::matmul(unit(rows), unit(words).t());
  EXPECT_TRUE(at::equal(likeness.argmax(1), at::arange(4)));
}

TEST(TextEncoder, ComesBackFromItsFolder) {
  char name[] = "/tmp/surgery-text-XXXXXX";
  const std::filesystem::path folder = mkdtemp(name);
  const TextEncoder encoder = TextEncoder::random(small_config(), {3});
  encoder.save(folder / "text_encoder", at::kFloat);
  const TextEncoder outer = TextEncoder::load(folder), inner = TextEncoder::load(folder / "text_encoder");
  const at::Tensor input = ids({4, 8, 1}), mask = at::ones_like(input);
  EXPECT_TRUE(at::equal(outer.forward(input, mask), encoder.forward(input, mask)));
  EXPECT_TRUE(at::equal(inner.forward(input, mask), encoder.forward(input, mask)));
  std::filesystem::remove_all(folder);
}

TEST(TextEncoder, CanBeTrained) {
  TextEncoder encoder = TextEncoder::random(small_config(), {3});
  for (auto& [parameter, tensor] : encoder.parameters()) tensor.requires_grad_(true);
  encoder.forward(ids({4, 8, 1}), at::ones({1, 3}, at::kLong)).square().mean().backward();
  for (const auto& [parameter, tensor] : encoder.parameters()) {
    ASSERT_TRUE(tensor.grad().defined()) << parameter;
    EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << parameter;
  }
}

TEST(TextEncoder, RefusesWhatDoesNotFit) {
  const TextEncoder encoder = TextEncoder::random(small_config(), {3});
  const at::Tensor mask = at::ones({1, 2}, at::kLong);
  expect_data_error("the vocabulary has 50", [&] { encoder.forward(ids({4, 50}), mask); });
  expect_data_error("from -1", [&] { encoder.forward(ids({-1, 4}), mask); });
  expect_data_error("must both be int64", [&] { encoder.forward(ids({4, 5, 6}), mask); });
  TensorMap parameters = TextEncoder(encoder).parameters();
  parameters.erase("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight");
  expect_data_error("relative_attention_bias.weight missing",
                    [&] { TextEncoder(small_config(), parameters); });
  parameters = TextEncoder(encoder).parameters();
  parameters["shared.weight"] = at::zeros({51, 16});
  expect_data_error("[51, 16] instead of [50, 16]", [&] { TextEncoder(small_config(), parameters); });
}

TEST(TextEncoderConfig, RoundTripsAndNamesWhatIsWrong) {
  const TextEncoderConfig config = TextEncoderConfig::from_json(small_config().to_json(), "config.json");
  EXPECT_EQ(config.to_json(), small_config().to_json());
  const auto changed = [](const std::string& from, const std::string& to) {
    std::string text = small_config().to_json();
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos);
    TextEncoderConfig::from_json(text.replace(at, from.size(), to), "config.json");
  };
  expect_data_error("config.json: num_heads is 0", [&] { changed("\"num_heads\": 4", "\"num_heads\": 0"); });
  expect_data_error("d_model is \"16\"", [&] { changed("\"d_model\": 16", "\"d_model\": \"16\""); });
  expect_data_error("d_kv is missing", [&] { changed("\"d_kv\"", "\"d_xy\""); });
  expect_data_error("model_type is \"t5\"", [&] { changed("\"umt5\"", "\"t5\""); });
  expect_data_error("feed_forward_proj is \"relu\"", [&] { changed("\"gated-gelu\"", "\"relu\""); });
  expect_data_error("cannot be told apart", [&] { changed("buckets\": 32", "buckets\": 30"); });
  expect_data_error("not valid JSON", [&] { TextEncoderConfig::from_json("{", "config.json"); });
}

TEST(PadText, FillsWithExactZeros) {
  const at::Tensor padded = pad_text(at::ones({3, 4}), 5);
  EXPECT_EQ(padded.sizes(), (std::vector<int64_t>{1, 5, 4}));
  EXPECT_TRUE(at::equal(padded[0].slice(0, 3, 5), at::zeros({2, 4})));
  EXPECT_EQ(padded.sum().item<double>(), 12);
  expect_data_error("does not fit in 2", [] { pad_text(at::ones({3, 4}), 2); });
}

}  // namespace
}  // namespace surgery
