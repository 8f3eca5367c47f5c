"""Retrieved neighbours (UNIMO section 3.2): related images and sentences for every pair."""
