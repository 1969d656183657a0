#include "recipe/tables.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/errors.h"
#include "base/text.h"
#include "storage/atomic_file.h"
#include "storage/hdf5_file.h"

namespace surgery {
namespace {

constexpr const char* kHeader = "block,rate,error,flops,milliseconds";

double number(const std::string& text, const std::string& where, const char* column) {
  const auto value = parse_number<double>(text);
  VALIDATE(value && std::isfinite(*value),
           "{}: column {} holds '{}', not a finite number: correct the file or make the tables again", where,
           column, text);
  return *value;
}

void check(Tables& tables, const std::string& where) {
  VALIDATE(!tables.rows.empty(), "{}: no rows (nothing to select from): make the tables again", where);
  std::stable_sort(tables.rows.begin(), tables.rows.end(), [](const TableRow& a, const TableRow& b) {
    return a.block != b.block ? a.block < b.block : a.rate < b.rate;
  });
  std::set<int64_t> blocks;
  for (size_t i = 0; i < tables.rows.size(); ++i) {
    const TableRow& row = tables.rows[i];
    VALIDATE(row.block >= 0, "{}: block {} is negative", where, row.block);
    VALIDATE(row.flops >= 0 && row.error >= 0, "{}: block {} rate {} has a negative error or cost", where,
             row.block, row.rate.name());
    blocks.insert(row.block);
    VALIDATE(i == 0 || tables.rows[i - 1].block != row.block || tables.rows[i - 1].rate != row.rate,
             "{}: block {} rate {} occurs twice", where, row.block, row.rate.name());
  }
  VALIDATE(*blocks.rbegin() + 1 == static_cast<int64_t>(blocks.size()),
           "{}: blocks are not 0..{} without gaps (a block's distillation is missing): make it first", where,
           *blocks.rbegin());
}

}  // namespace

int64_t Tables::blocks() const {
  return rows.empty() ? 0 : rows.back().block + 1;
}

std::vector<const TableRow*> Tables::of_block(int64_t block) const {
  std::vector<const TableRow*> found;
  for (const TableRow& row : rows)
    if (row.block == block) found.push_back(&row);
  return found;
}

const TableRow& Tables::at(int64_t block, Rate rate) const {
  for (const TableRow& row : rows)
    if (row.block == block && row.rate == rate) return row;
  fail_data("the tables have no rate {} for block {}: distil it or choose another rate", rate.name(), block);
}

Tables read_tables_csv(const std::filesystem::path& path) {
  Tables tables;
  std::string text = read_file(path);
  std::erase(text, '\r');
  const auto lines = split(text, '\n');
  VALIDATE(lines[0] == kHeader, "{}: first line is '{}', expected '{}'", path.string(), lines[0], kHeader);
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const std::string where = fmt::format("{}:{}", path.string(), i + 1);
    const auto fields = split(lines[i], ',');
    VALIDATE(fields.size() == 5, "{}: {} fields, expected 5 ({})", where, fields.size(), kHeader);
    TableRow row;
    const double block = number(fields[0], where, "block");
    VALIDATE(block == std::floor(block) && std::abs(block) < 1e6, "{}: '{}' is not a block index", where,
             fields[0]);
    row.block = static_cast<int64_t>(block);
    try {
      row.rate = Rate::parse(fields[1]);
    } catch (const Error& error) {
      fail_data("{}: {}", where, error.what());
    }
    row.error = number(fields[2], where, "error");
    row.flops = number(fields[3], where, "flops");
    if (!fields[4].empty()) row.milliseconds = number(fields[4], where, "milliseconds");
    tables.rows.push_back(row);
  }
  check(tables, path.string());
  return tables;
}

std::string tables_csv(const Tables& tables) {
  std::string out = fmt::format("{}\n", kHeader);
  for (const TableRow& row : tables.rows)
    out += fmt::format("{},{},{},{},{}\n", row.block, row.rate.name(), row.error, row.flops,
                       row.milliseconds ? fmt::format("{}", *row.milliseconds) : "");
  return out;
}

void write_tables_h5(const std::filesystem::path& path, const Tables& tables,
                     const std::string& fingerprint) {
  const int64_t n = static_cast<int64_t>(tables.rows.size());
  at::Tensor block = at::empty({n}, at::kLong), rate = at::empty({n}, at::kLong);
  at::Tensor error = at::empty({n}, at::kDouble), flops = at::empty({n}, at::kDouble);
  at::Tensor milliseconds = at::empty({n}, at::kDouble);
  for (int64_t i = 0; i < n; ++i) {
    const TableRow& row = tables.rows[static_cast<size_t>(i)];
    block[i] = row.block;
    rate[i] = row.rate.is_linear() ? 0 : row.rate.stride();
    error[i] = row.error;
    flops[i] = row.flops;
    milliseconds[i] = row.milliseconds.value_or(std::nan(""));
  }
  Hdf5Writer file(path, "surgery-tables", 1);
  file.attribute("fingerprint", fingerprint);
  file.dataset("block", block);
  file.dataset("rate", rate);  // 0 stands for linear
  file.dataset("error", error);
  file.dataset("flops", flops);
  file.dataset("milliseconds", milliseconds);  // NaN: not measured
  file.commit();
}

Tables read_tables_h5(const std::filesystem::path& path) {
  const Hdf5Reader file(path, "surgery-tables", 1);
  const at::Tensor block = file.dataset("block"), rate = file.dataset("rate"), error = file.dataset("error"),
                   flops = file.dataset("flops"), milliseconds = file.dataset("milliseconds");
  const int64_t n = block.numel();
  for (const at::Tensor& t : {rate, error, flops, milliseconds})
    VALIDATE(t.dim() == 1 && t.numel() == n, "{}: columns differ in length (damaged): make the tables again",
             path.string());
  Tables tables;
  for (int64_t i = 0; i < n; ++i) {
    TableRow row;
    row.block = block[i].item<int64_t>();
    const int64_t stride = rate[i].item<int64_t>();
    row.rate = stride == 0 ? Rate::linear() : Rate::every(stride);
    row.error = error[i].item<double>();
    row.flops = flops[i].item<double>();
    const double ms = milliseconds[i].item<double>();
    if (!std::isnan(ms)) row.milliseconds = ms;
    tables.rows.push_back(row);
  }
  check(tables, path.string());
  return tables;
}

std::string tables_fingerprint(const std::filesystem::path& path) {
  return Hdf5Reader(path, "surgery-tables", 1).attribute_text("fingerprint");
}

Tables read_tables(const std::filesystem::path& path) {
  if (path.extension() == ".csv") return read_tables_csv(path);
  if (path.extension() == ".h5") return read_tables_h5(path);
  fail_usage("{}: tables are read from .csv or .h5, by extension", path.string());
}

}  // namespace surgery
