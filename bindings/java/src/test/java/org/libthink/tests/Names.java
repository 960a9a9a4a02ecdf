package org.libthink.tests;

/** Names of C in Java. */
final class Names {
  private Names() {}

  /** keyKept of key_kept */
  static String java(String name) {
    StringBuilder made = new StringBuilder();
    for (String part : name.split("_")) made.append(made.length() == 0 ? part : part.substring(0, 1).toUpperCase() + part.substring(1));
    return made.toString();
  }

  /** The class of think_prune_options. */
  static Class<?> classOf(String struct) throws ClassNotFoundException {
    if (struct.equals("think_error")) return Class.forName("org.libthink.ErrorRecord");
    String name = java(struct.substring("think_".length()));
    return Class.forName("org.libthink." + name.substring(0, 1).toUpperCase() + name.substring(1));
  }
}
