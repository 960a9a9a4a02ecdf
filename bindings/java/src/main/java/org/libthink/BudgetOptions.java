// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_budgets(). */
public final class BudgetOptions extends Struct {
  static final int SIZE = 32;

  /** With what the library's init function says. */
  public BudgetOptions() {
    super(SIZE, 0);
    Native.think_budget_options_init(this, SIZE);
  }

  BudgetOptions(Memory memory) { super(memory, 0); }

  /** THINK_BUDGET_NORMALISE */
  public int flags() { return bytes.getInt(4); }

  public BudgetOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** layers that share the total: 0 = 1 */
  public int layers() { return bytes.getInt(8); }

  public BudgetOptions layers(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** fewest channels of a head, a multiple of step: 0 = 8, rounded up to one, or the most that a head has */
  public int floor() { return bytes.getInt(12); }

  public BudgetOptions floor(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** channels are handed out in blocks of so many: 0 = 8 */
  public int step() { return bytes.getInt(16); }

  public BudgetOptions step(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** channels that one sequence keeps in all heads of all layers together */
  public long total() { return bytes.getLong(24); }

  public BudgetOptions total(long value) {
    bytes.putLong(24, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("BudgetOptions", "flags", flags(), "layers", layers(), "floor", floor(), "step", step(), "total", total());
  }
}
