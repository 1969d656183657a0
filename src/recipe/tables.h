#pragma once
#include <filesystem>
#include <optional>
#include <vector>

#include "attention/rate.h"

namespace surgery {

/// One row of tables.csv: block b at a rate.
struct TableRow {
  int64_t block = 0;
  Rate rate = Rate::full();
  double error = 0;                    ///< held-out value loss e[b][r]; 0 at rate 1
  double flops = 0;                    ///< attention core, one forward at cost.geometry
  std::optional<double> milliseconds;  ///< measured there
};

/// The error and cost tables of every block and rate (design: definitions, Tables).
struct Tables {
  std::vector<TableRow> rows;  ///< by block, then dearest rate first
  int64_t blocks() const;
  std::vector<const TableRow*> of_block(int64_t block) const;
  const TableRow& at(int64_t block, Rate rate) const;  ///< Error{data} if the table lacks it
};

/// tables.csv: columns block,rate,error,flops,milliseconds (milliseconds may be empty). Throws Error{data}
/// with the line.
Tables read_tables_csv(const std::filesystem::path& path);
std::string tables_csv(const Tables& tables);

/// tables.h5 (schema: README).
void write_tables_h5(const std::filesystem::path& path, const Tables& tables, const std::string& fingerprint);
Tables read_tables_h5(const std::filesystem::path& path);

std::string tables_fingerprint(const std::filesystem::path& path);

/// By extension: .csv or .h5.
Tables read_tables(const std::filesystem::path& path);

}  // namespace surgery
