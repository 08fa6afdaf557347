"""What several scripts share: the answers of the studies as they are kept, and the making of offline pages."""
