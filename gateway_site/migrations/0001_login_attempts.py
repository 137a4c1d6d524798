"""What the admin's login remembers of attempts."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []

    operations = [
        migrations.CreateModel(
            name="LoginAttempts",
            fields=[
                ("caller", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("count", models.PositiveSmallIntegerField(default=0)),
                ("until", models.DateTimeField(db_index=True)),
            ],
            options={"verbose_name_plural": "login attempts"},
        ),
    ]
