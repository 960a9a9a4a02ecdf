/** Smaller key-value caches by storing fewer channels, and attention on them. */
module org.libthink {
  exports org.libthink;
}
